//! `wayleave ready`: asks a running sidecar's admin listener whether it is ready.
//!
//! The probe of containers that hold nothing but this binary: one small HTTP request, an
//! answer read up to a limit, an exit status.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::admin_client::{exchange, status};
use crate::config;

const EXAMPLES: &str = "\
Examples:
  wayleave ready
  wayleave ready --admin 127.0.0.1:15000 --timeout 500ms
  HEALTHCHECK CMD [\"wayleave\", \"ready\"]

Exit status: 0 when the sidecar is ready, 1 when it is not or does not answer.";

/// Ask a running sidecar whether it is ready
///
/// Sends GET /readyz to the admin listener. For probes in containers without a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReadyArgs {
    /// The admin listener's address
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = config::duration)]
    timeout: Duration,
}

/// Asks, says the answer, and says with which status the process should end.
pub(crate) fn run(args: &ReadyArgs) -> ExitCode {
    match ask(args.admin, args.timeout) {
        Ok(200) => ExitCode::SUCCESS,
        Ok(status) => {
            tell(&format!(
                "not ready: {} answered with status {status}",
                args.admin
            ));
            ExitCode::FAILURE
        }
        Err(error) => {
            tell(&format!("no answer from {}: {error}", args.admin));
            ExitCode::FAILURE
        }
    }
}

fn tell(line: &str) {
    // A probe whose standard error is closed still has its exit status.
    let _ = writeln!(io::stderr(), "{line}");
}

/// The status of the answer to GET /readyz.
fn ask(admin: SocketAddr, limit: Duration) -> io::Result<u16> {
    let first_line = |answer: &[u8]| answer.contains(&b'\n');
    let answer = exchange(admin, "/readyz", limit, first_line)?;
    status(&answer).ok_or_else(|| io::Error::other("the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    const LONG: Duration = Duration::from_secs(20);

    /// Answers one request with `answer`; the request it got.
    fn served(answer: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..read]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(request).unwrap()
        });
        (address, server)
    }

    #[test]
    fn the_status_is_that_of_the_answer() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..], 200),
            (&b"HTTP/1.0 503 Service Unavailable\r\n\r\n"[..], 503),
        ] {
            let (address, server) = served(answer);
            assert_eq!(ask(address, LONG).unwrap(), expected);
            let request = server.join().unwrap();
            assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
            assert!(
                request.contains(&format!("Host: {address}\r\n")),
                "{request}"
            );
        }
    }

    #[test]
    fn what_is_not_http_is_not_ready() {
        for answer in [&b""[..], b"SSH-2.0-x\r\n", b"HTTP/1.1 2000\r\n"] {
            let (address, server) = served(answer);
            assert_eq!(ask(address, LONG).ok(), status(answer));
            server.join().unwrap();
        }
        assert_eq!(status(b"HTTP/1.1 20x OK"), None);
    }

    #[test]
    fn silence_ends_with_the_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(ask(address, Duration::from_millis(50)).is_err());
    }
}
