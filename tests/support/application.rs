//! Applications of different makes that record what they saw of each request: hyper in this
//! process, nginx, Node's `http` and Python's `http.server`, each with a parser of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::process::Process;
use super::upstream::{Seen, Speaks, Upstream};
use super::{eventually, tool};

/// One request as an application saw it. Text has one character for each byte.
#[derive(Clone, Debug)]
pub(crate) struct Saw {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Saw {
    /// Every value of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let named = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        let fields = self.headers.iter().filter(named);
        fields.map(|(_, value)| value.as_str()).collect()
    }
}

/// An application that runs.
pub(crate) struct Application {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    kind: Kind,
}

enum Kind {
    Hyper(Upstream),
    Nginx(
        Process,
        #[expect(dead_code, reason = "is removed when dropped")] TempDir,
    ),
    Script(Process),
}

impl Application {
    pub(crate) async fn hyper(speaks: Speaks) -> Self {
        let upstream = Upstream::start(speaks).await;
        let name = match speaks {
            Speaks::Http2 => "hyper over HTTP/2",
            _ => "hyper",
        };
        Self {
            name,
            address: upstream.address,
            kind: Kind::Hyper(upstream),
        }
    }

    /// Nothing where Node is not installed.
    pub(crate) async fn node() -> Option<Self> {
        let node = tool::find("node")?;
        let mut command = Command::new(node);
        command.arg(script("record.js"));
        Some(Self::script("node", command).await)
    }

    /// Nothing where Python is not installed.
    pub(crate) async fn python() -> Option<Self> {
        let python = tool::find("python3")?;
        let mut command = Command::new(python);
        command.arg(script("record.py"));
        Some(Self::script("python", command).await)
    }

    async fn script(name: &'static str, mut command: Command) -> Self {
        let process = Process::start(&mut command);
        let said = process
            .stdout
            .json("the port", |line| line["port"].is_u64());
        let port = said.await["port"].as_u64().unwrap();
        let port = u16::try_from(port).unwrap();
        Self {
            name,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            kind: Kind::Script(process),
        }
    }

    /// Nothing where nginx is not installed.
    pub(crate) async fn nginx() -> Option<Self> {
        let nginx = tool::find("nginx")?;
        let directory = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        std::fs::write(
            directory.path().join("nginx.conf"),
            nginx_config(directory.path(), address),
        )
        .unwrap();
        let mut command = Command::new(nginx);
        command.args(["-e", "stderr", "-p"]).arg(directory.path());
        let process = Process::start(command.args(["-c", "nginx.conf"]));
        eventually("nginx", || async {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        Some(Self {
            name: "nginx",
            address,
            kind: Kind::Nginx(process, directory),
        })
    }

    /// Every request that was read whole and answered, in the order of their answers.
    pub(crate) fn seen(&self) -> Vec<Saw> {
        match &self.kind {
            Kind::Hyper(upstream) => upstream.seen().iter().map(from_hyper).collect(),
            Kind::Script(process) => lines(process).iter().filter_map(from_script).collect(),
            Kind::Nginx(process, _) => lines(process).iter().filter_map(from_nginx).collect(),
        }
    }
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/support/applications")
        .join(name)
}

fn lines(process: &Process) -> Vec<Value> {
    let lines = process.stdout.all();
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn from_hyper(seen: &Seen) -> Saw {
    let pairs = |headers: &http::HeaderMap| {
        let fields = headers.iter();
        fields
            .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
            .collect()
    };
    let mut headers: Vec<_> = pairs(&seen.headers);
    let authority = seen.authority.as_ref();
    headers.extend(authority.map(|authority| ("host".to_owned(), text(authority.as_bytes()))));
    Saw {
        method: seen.method.to_string(),
        target: text(seen.target.as_bytes()),
        headers,
        trailers: seen.trailers.as_ref().map(pairs).unwrap_or_default(),
        body: text(&seen.body),
    }
}

fn from_script(line: &Value) -> Option<Saw> {
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    let pairs = |value: &Value| {
        let fields = value.as_array().unwrap().iter();
        fields
            .map(|field| (string(&field[0]), string(&field[1])))
            .collect()
    };
    line.get("method")?;
    Some(Saw {
        method: string(&line["method"]),
        target: string(&line["target"]),
        headers: pairs(&line["headers"]),
        trailers: pairs(&line["trailers"]),
        body: string(&line["body"]),
    })
}

/// The headers that nginx is asked to tell.
const TOLD: [&str; 7] = [
    "host",
    "x-case",
    "x-forwarded-client-cert",
    "content-length",
    "transfer-encoding",
    "authorization",
    "cookie",
];

fn from_nginx(line: &Value) -> Option<Saw> {
    let bytes = |name: &str| text(line[name].as_str().unwrap().as_bytes());
    if line["status"] != "200" {
        return None;
    }
    let request = bytes("request");
    let [method, target, _version] = request.split(' ').collect::<Vec<_>>()[..] else {
        panic!("not a request line: {request}");
    };
    let headers = TOLD.into_iter().map(|name| (name.to_owned(), bytes(name)));
    Some(Saw {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: headers.filter(|(_, value)| !value.is_empty()).collect(),
        trailers: Vec::new(),
        body: bytes("body"),
    })
}

/// A front that reads bodies, which is what makes nginx tell them, and a back that answers.
fn nginx_config(directory: &Path, address: SocketAddr) -> String {
    let fields: String = TOLD
        .iter()
        .map(|name| format!("\"{name}\":\"$http_{}\",", name.replace('-', "_")))
        .collect();
    let back = directory.join("back.sock");
    let back = back.display();
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n\
           log_format told escape=json '{{\"status\":\"$status\",\"request\":\"$request\",\
             {fields}\"body\":\"$request_body\"}}';\n\
           client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
           uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
           client_body_buffer_size 1m; client_body_in_single_buffer on;\n\
           large_client_header_buffers 4 64k;\n\
           server {{ listen {address}; access_log /dev/stdout told;\n\
             location / {{ proxy_pass http://unix:{back}:; }} }}\n\
           server {{ listen unix:{back}; access_log off; return 200 \"ok\\n\"; }} }}\n"
    )
}
