//! A sidecar by configuration file: its folder with certificates, policies and
//! `wayleave.yaml`, and the running process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::client::{self, Answer, Http1, Http2};
use super::eventually;
use super::pki::{Ca, Credentials, Leaf, workload};
use super::process::{Process, wayleave};

/// `frontend` may do what it likes outside `/forbidden`; nobody else may do anything.
pub(crate) const POLICY: &str = r#"
@id("frontend-calls-app")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action in [Action::"http:read", Action::"http:write", Action::"grpc:call"],
  resource in Service::"app"
) unless { resource.path like "/forbidden*" };
"#;

/// What a sidecar is started with. Change its files and fields before [`Setup::start`].
pub(crate) struct Setup {
    pub(crate) directory: TempDir,
    pub(crate) ca: Ca,
    pub(crate) own: Credentials,
    /// The keys of the `identity` section.
    pub(crate) identity: String,
    pub(crate) upstream: String,
    /// More keys of the `upstream` section, one `key: value` each.
    pub(crate) upstream_keys: Vec<&'static str>,
    /// The keys of the `limits` section.
    pub(crate) limits: Vec<&'static str>,
    /// More keys of the inbound listener.
    pub(crate) inbound_keys: Vec<&'static str>,
    /// More top-level keys.
    pub(crate) keys: Vec<&'static str>,
    /// The whole file in place of all that.
    pub(crate) text: Option<String>,
    /// Whether the file is a link into the folder `..data`, which is there already.
    pub(crate) linked: bool,
}

impl Setup {
    pub(crate) fn new(upstream: impl ToString) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("wayleave-test-")
            .tempdir()
            .unwrap();
        let ca = Ca::new();
        let leaf = Leaf::local(&workload("app"));
        let own = Credentials::write(&directory.path().join("own"), &ca.issue(&leaf), &ca.pem());
        std::fs::create_dir(directory.path().join("policies")).unwrap();
        let setup = Self {
            directory,
            ca,
            own,
            identity: "files: { svid: own/svid.pem, key: own/key.pem, bundle: own/bundle.pem }"
                .to_owned(),
            upstream: upstream.to_string(),
            upstream_keys: Vec::new(),
            limits: Vec::new(),
            inbound_keys: Vec::new(),
            keys: Vec::new(),
            text: None,
            linked: false,
        };
        setup.write_policy(POLICY);
        setup
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write_policy(&self, policy: &str) {
        std::fs::write(self.path("policies/main.cedar"), policy).unwrap();
    }

    /// The PEM files of a caller with a good SVID.
    pub(crate) fn caller(&self, name: &str) -> Credentials {
        self.credentials(name, &Leaf::svid(&workload(name)))
    }

    pub(crate) fn credentials(&self, name: &str, leaf: &Leaf) -> Credentials {
        let directory = self.path("callers").join(name);
        Credentials::write(&directory, &self.ca.issue(leaf), &self.ca.pem())
    }

    /// Writes the configuration file and says where it is.
    pub(crate) fn write_config(&self) -> PathBuf {
        let path = self.path("wayleave.yaml");
        if self.linked {
            std::os::unix::fs::symlink("..data/wayleave.yaml", &path).unwrap();
            return path;
        }
        let text = self.text.clone();
        let text = text.unwrap_or_else(|| self.config("127.0.0.1:0"));
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn config(&self, listen: &str) -> String {
        let mut yaml = String::from("identity:\n");
        for line in self.identity.lines() {
            yaml += &format!("  {line}\n");
        }
        yaml += "policies: { paths: [policies] }\nadmin: { listen: \"127.0.0.1:0\" }\n";
        for key in &self.keys {
            yaml += &format!("{key}\n");
        }
        yaml += &format!("inbound:\n  - name: app\n    listen: \"{listen}\"\n    service: app\n");
        yaml += &format!("    upstream:\n      address: \"{}\"\n", self.upstream);
        for key in &self.upstream_keys {
            yaml += &format!("      {key}\n");
        }
        for key in &self.inbound_keys {
            yaml += &format!("    {key}\n");
        }
        if !self.limits.is_empty() {
            yaml += "    limits:\n";
        }
        for key in &self.limits {
            yaml += &format!("      {key}\n");
        }
        yaml
    }

    /// Starts the sidecar and waits until it is ready.
    pub(crate) async fn start(self) -> Sidecar {
        let sidecar = self.launch("ready").await;
        sidecar.until_ready().await;
        sidecar
    }

    /// Starts the sidecar and waits until it says `milestone`, with its addresses.
    pub(crate) async fn launch(self, milestone: &str) -> Sidecar {
        let config = self.write_config();
        let process = Process::start(wayleave().arg("run").arg("--config").arg(config));
        let ready = process
            .stderr
            .json(milestone, |line| message(line) == Some(milestone))
            .await;
        let inbound = address(&ready, "inbound");
        let admin = address(&ready, "admin");
        let bundle = self.ca.pem().into_bytes();
        Sidecar {
            setup: self,
            process,
            inbound,
            admin,
            bundle,
        }
    }
}

/// The message of a log line.
pub(crate) fn message(line: &serde_json::Value) -> Option<&str> {
    line["message"]
        .as_str()
        .or_else(|| line["fields"]["message"].as_str())
}

/// An address among the fields of a log line, be they nested or not.
fn address(line: &serde_json::Value, field: &str) -> SocketAddr {
    let value = [&line[field], &line["fields"][field]]
        .into_iter()
        .find_map(|value| value.as_str());
    let text = value.unwrap_or_else(|| panic!("no `{field}` in {line}"));
    let digits = |c: char| !(c.is_ascii_digit() || c == '.' || c == ':');
    // The first of several.
    let text = text.split(',').next().unwrap_or_default();
    text.trim_matches(digits)
        .parse()
        .unwrap_or_else(|_| panic!("`{field}` in {line}"))
}

/// A running sidecar.
pub(crate) struct Sidecar {
    pub(crate) setup: Setup,
    pub(crate) process: Process,
    pub(crate) inbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    bundle: Vec<u8>,
}

impl Sidecar {
    pub(crate) async fn until_ready(&self) {
        self.until_readiness_is(200).await;
    }

    /// Waits until the probe is answered with this status.
    pub(crate) async fn until_readiness_is(&self, status: u16) {
        eventually("readiness", || async {
            let answer = self.admin_get("/readyz").await?;
            (answer.status == status).then_some(())
        })
        .await;
    }

    pub(crate) async fn admin_get(&self, path: &str) -> Option<Answer> {
        let host = self.admin.to_string();
        let request = Request::get(path)
            .header("host", host)
            .body(Full::default())
            .unwrap();
        client::plain(self.admin, request).await
    }

    /// The URL of a path, for clients that verify `localhost`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.inbound.port())
    }

    /// A handshake by somebody with these credentials, or with none.
    pub(crate) async fn connect(
        &self,
        credentials: Option<&Credentials>,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        client::handshake(self.inbound, client::tls(credentials, &self.bundle, alpn)).await
    }

    pub(crate) async fn stream(&self, caller: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.connect(Some(&self.setup.caller(caller)), alpn)
            .await
            .unwrap()
    }

    pub(crate) async fn http1(&self, caller: &str) -> Http1 {
        Http1::over(self.stream(caller, &["http/1.1"]).await).await
    }

    pub(crate) async fn http2(&self, caller: &str) -> Http2<Full<Bytes>> {
        Http2::over(self.stream(caller, &["h2"]).await).await
    }

    /// One GET over a connection of its own.
    pub(crate) async fn get(&self, caller: &str, path: &str) -> Answer {
        self.http1(caller).await.send(client::get(path)).await
    }

    /// The decision record of the first call that `accept` agrees to.
    pub(crate) async fn record(
        &self,
        accept: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let what = "the decision record";
        self.process
            .stdout
            .json(what, |line| line["kind"] == "decision" && accept(line))
            .await
    }

    pub(crate) fn policy_file(&self) -> impl AsRef<Path> + use<> {
        self.setup.path("policies/main.cedar")
    }
}
