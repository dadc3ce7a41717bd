//! What `wayleave dev` says when it is ready: where things are, and two calls to paste.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// What the banner tells.
pub(super) struct Banner<'a> {
    pub(super) inbound: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) upstream: &'a str,
    pub(super) dir: &'a Path,
    /// The socket of the Workload API, absolute; none where it could not be opened.
    pub(super) workload_api: Option<&'a Path>,
    /// The socket of operators; none where its path would be too long.
    pub(super) admin_socket: Option<&'a Path>,
}

impl Banner<'_> {
    /// The banner, ending in a newline.
    pub(super) fn text(&self) -> String {
        let port = self.inbound.port();
        let policies = self.dir.join("policies");
        let mut text = String::new();
        let _ = write!(
            text,
            "\nwayleave {} is ready: https://localhost:{port} -> {}\n\n\
             \x20 policies      {}/*.cedar   (edit them while this runs)\n\
             \x20 admin         http://{}   (/healthz /readyz /status /metrics /decisions)\n",
            env!("CARGO_PKG_VERSION"),
            self.upstream,
            policies.display(),
            self.admin,
        );
        if let Some(socket) = self.workload_api {
            let address = format!("unix://{}", socket.display());
            let address = quote(Path::new(&address));
            let _ = writeln!(text, "  workload API  {address}   (SPIFFE_ENDPOINT_SOCKET)");
        }
        if let Some(socket) = self.admin_socket {
            let socket = quote(socket);
            let _ = writeln!(
                text,
                "  admin socket  {socket}   (wayleave quarantine, revoke, risk)"
            );
        }
        text.push('\n');
        let _ = write!(
            text,
            "Allowed, because the policy \"agent-reads-orders\" permits it:\n\n\
             \x20 {}\n\n\
             Denied, because no policy lets the agent delete:\n\n\
             \x20 {}\n\n",
            self.curl("agent", "", "/orders/7"),
            self.curl("agent", "-X DELETE ", "/orders/7"),
        );
        text
    }

    fn curl(&self, caller: &str, method: &str, path: &str) -> String {
        let file = |name: &str| quote(&self.dir.join(name)).into_owned();
        format!(
            "curl {method}--cacert {} --cert {} --key {} {}https://localhost:{}{path}",
            file("bundle.pem"),
            file(&format!("svids/{caller}/svid.pem")),
            file(&format!("svids/{caller}/key.pem")),
            self.connect_to(),
            self.inbound.port(),
        )
    }

    /// The sidecar's certificate names localhost; a listener elsewhere is reached by it too.
    fn connect_to(&self) -> String {
        let (address, port) = (self.inbound.ip(), self.inbound.port());
        if address.is_unspecified() || address == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            return String::new();
        }
        format!("--connect-to 'localhost:{port}:{}' ", self.inbound)
    }
}

/// A path as a shell reads it.
pub(super) fn quote(path: &Path) -> Cow<'_, str> {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,".contains(c);
    match text.chars().all(plain) && !text.starts_with('-') {
        true => text,
        false => Cow::Owned(format!("'{}'", text.replace('\'', r"'\''"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(inbound: &str, dir: &str) -> String {
        let (inbound, admin) = (inbound.parse().unwrap(), "127.0.0.1:15000".parse().unwrap());
        Banner {
            inbound,
            admin,
            upstream: "demo",
            dir: Path::new(dir),
            workload_api: Some(Path::new("/w/workload.sock")),
            admin_socket: Some(Path::new(".wayleave/admin.sock")),
        }
        .text()
    }

    #[test]
    fn has_two_curl_lines_to_paste() {
        let text = banner("127.0.0.1:8443", ".wayleave");
        let curls: Vec<_> = text
            .lines()
            .filter(|l| l.trim_start().starts_with("curl "))
            .collect();
        assert_eq!(curls.len(), 2);
        assert!(
            curls
                .iter()
                .all(|line| line.ends_with("https://localhost:8443/orders/7"))
        );
    }

    #[test]
    fn names_the_workload_api_as_its_clients_read_it() {
        let text = banner("127.0.0.1:8443", ".wayleave");
        assert!(
            text.contains("  workload API  unix:///w/workload.sock   (SPIFFE_ENDPOINT_SOCKET)\n")
        );
    }

    #[test]
    fn quotes_a_path_that_a_shell_would_split() {
        assert!(banner("127.0.0.1:1", "a b'c").contains(r"'a b'\''c/bundle.pem'"));
    }

    #[test]
    fn reaches_a_listener_elsewhere_by_the_name_in_the_certificate() {
        let text = banner("[::1]:8443", ".wayleave");
        assert!(text.contains("--connect-to 'localhost:8443:[::1]:8443' https://localhost:8443/"));
    }
}
