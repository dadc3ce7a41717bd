//! One sidecar with a listener of every kind, its applications, and two callers.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::applications::Applications;
use super::calls::Whose;
use crate::sidecar::ssf::Signer;
use crate::support::client;
use crate::support::mesh::outbound;
use crate::support::pki::{Ca, Credentials, Leaf, workload};
use crate::support::process::wayleave;
use crate::support::setup::{Setup, Sidecar};
use crate::support::tool::{Finished, run};

/// The trust domain that may be taken away.
pub(super) const PARTNER: &str = "spiffe://partner.example/ns/default/sa/hit";
/// The serial number of who is hit.
pub(super) const SERIAL: u64 = 666;

/// Everything may be done.
pub(super) const ALL: &str = "@id(\"all\") permit (principal, action, resource);\n";

/// The file with groups, beside the policies.
pub(super) const ENTITIES: &str = "policies/groups.entities.yaml";

/// Where the policies of a configuration are that comes later.
pub(super) const NEXT: &str = "policies-next";

/// Where `federated` trust domains are named in the configuration.
const FEDERATED: &str = "federated: [{ trust_domain: partner.example, bundle: partner.pem }]";

/// Who is hit, as far as a trigger cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Papers {
    Ordinary,
    /// An SVID that is over in some seconds.
    Short,
    /// An SVID of another trust domain.
    Partner,
}

/// How a world begins.
pub(super) struct Beginning {
    pub(super) papers: Papers,
    pub(super) policy: String,
    /// The entities file.
    pub(super) entities: &'static str,
    /// More top-level keys of the configuration.
    pub(super) keys: String,
}

pub(super) struct World {
    pub(super) sidecar: Sidecar,
    pub(super) applications: Applications,
    /// The name of who is hit.
    pub(super) hit: String,
    pub(super) proxy: SocketAddr,
    /// Who signs security events.
    pub(super) signer: Signer,
    credentials: [Credentials; 2],
    bundle: Vec<u8>,
    listeners: [(&'static str, SocketAddr); 3],
}

impl World {
    pub(super) async fn begin(beginning: Beginning) -> Self {
        let applications = Applications::start().await;
        let mut setup = Setup::new("127.0.0.1:9");
        setup.write_policy(&beginning.policy);
        replace(&setup, ENTITIES, beginning.entities);
        let signer = Signer::new();
        std::fs::write(setup.path("jwks.json"), signer.key_set()).unwrap();
        std::fs::write(setup.path("token"), "s3cret\n").unwrap();
        let partner = Ca::of("partner.example");
        std::fs::write(setup.path("partner.pem"), partner.pem()).unwrap();
        replace(&setup, "revoked.pem", &setup.ca.revocation_list(1, &[]));
        setup.text = Some(file(&applications, &beginning.keys));
        let bundle = setup.ca.pem().into_bytes();
        let other = setup.caller("other");
        let sidecar = setup.start().await;
        let listeners = [
            ("web", outbound(&sidecar, "web").await),
            ("grpc", outbound(&sidecar, "grpc").await),
            ("tcp", outbound(&sidecar, "tcp").await),
        ];
        let proxy = outbound(&sidecar, "proxy").await;
        // Last: the lifetime of a short one begins here.
        let (hit, papers) = papers(&sidecar.setup, &partner, beginning.papers);
        Self {
            sidecar,
            applications,
            hit,
            proxy,
            signer,
            credentials: [papers, other],
            bundle,
            listeners,
        }
    }

    /// A connection to a listener.
    pub(super) async fn tls(
        &self,
        listener: &str,
        whose: Whose,
        alpn: &[&str],
    ) -> TlsStream<TcpStream> {
        self.try_tls(listener, whose, alpn).await.unwrap()
    }

    async fn try_tls(
        &self,
        listener: &str,
        whose: Whose,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut listeners = self.listeners.iter();
        let (_, address) = listeners.find(|(name, _)| *name == listener).unwrap();
        let [hit, other] = &self.credentials;
        let credentials = match whose {
            Whose::Hit => hit,
            Whose::Other => other,
        };
        let config = client::tls(Some(credentials), &self.bundle, alpn);
        client::handshake(*address, config).await
    }

    /// The status of a call that begins now; none where not even its connection does.
    pub(super) async fn new_call(&self, whose: Whose) -> Option<u16> {
        let stream = self.try_tls("web", whose, &["h2"]).await.ok()?;
        let mut http2 = client::Http2::over(stream).await;
        let request = client::get("https://localhost/new");
        let response = http2.0.send_request(request).await.ok()?;
        Some(response.status().as_u16())
    }

    /// The service that a tunnel leads to.
    pub(super) fn destination(whose: Whose) -> &'static str {
        match whose {
            Whose::Hit => "db",
            Whose::Other => "cache",
        }
    }

    pub(super) async fn operator(&self, args: &[&str]) -> Finished {
        let socket = self.sidecar.setup.path("admin.sock");
        let mut command = wayleave();
        let done = run(command.args(args).arg("--socket").arg(socket)).await;
        done.successful()
    }

    /// Takes the bundle of the partner's trust domain out of the configuration.
    pub(super) fn forget_partner(&self) {
        let path = self.sidecar.setup.path("wayleave.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(FEDERATED), "{text}");
        let without = text.replace(FEDERATED, "federated: []");
        replace(&self.sidecar.setup, "wayleave.yaml", &without);
    }

    /// A configuration by which every listener is another one, and the policies are elsewhere.
    pub(super) fn changed(&self) -> String {
        let text = std::fs::read_to_string(self.sidecar.setup.path("wayleave.yaml")).unwrap();
        let (limit, paths) = ("trust_grace: 1s", "policies: { paths: [policies] }");
        assert_eq!(text.matches(limit).count(), 4, "{text}");
        assert!(text.contains(paths), "{text}");
        let paths_next = format!("policies: {{ paths: [{NEXT}] }}\ndrain_timeout: 10m");
        text.replace(limit, "trust_grace: 2s")
            .replace(paths, &paths_next)
    }

    /// The same without any listener but `web`.
    pub(super) fn removed(&self) -> String {
        let changed = self.changed();
        let (kept, _) = changed.split_once("  - { name: grpc").unwrap();
        kept.to_owned()
    }

    pub(super) fn revoke_by_list(&self) {
        let list = self.sidecar.setup.ca.revocation_list(2, &[SERIAL]);
        replace(&self.sidecar.setup, "revoked.pem", &list);
    }
}

/// Puts a file in the place of another in one step.
pub(super) fn replace(setup: &Setup, name: &str, content: &str) {
    std::fs::write(setup.path("new"), content).unwrap();
    std::fs::rename(setup.path("new"), setup.path(name)).unwrap();
}

fn papers(setup: &Setup, partner: &Ca, kind: Papers) -> (String, Credentials) {
    let id = workload("hit");
    let leaf = Leaf {
        serial: Some(SERIAL),
        ..Leaf::svid(&id)
    };
    match kind {
        Papers::Ordinary => (id, setup.credentials("hit", &leaf)),
        Papers::Short => {
            let lifetime = Some(time::Duration::seconds(6));
            (id, setup.credentials("hit", &Leaf { lifetime, ..leaf }))
        }
        Papers::Partner => {
            let issued = partner.issue(&Leaf::svid(PARTNER));
            let directory = setup.path("callers/hit");
            let credentials = Credentials::write(&directory, &issued, &setup.ca.pem());
            (PARTNER.to_owned(), credentials)
        }
    }
}

fn file(applications: &Applications, keys: &str) -> String {
    let Applications {
        http1, http2, tcp, ..
    } = applications;
    let inbound = |name: &str, upstream: String, more: &str| {
        format!(
            "  - {{ name: {name}, listen: \"127.0.0.1:0\", service: app, {more}\
             upstream: {{ {upstream} }}, limits: {{ trust_grace: 1s }} }}\n"
        )
    };
    let destination = |name: &str| {
        format!(
            "  - {{ service: {name}, hosts: [{name}.example], upstream: {{ address: \"{tcp}\" }} }}\n"
        )
    };
    [
        format!(
            "identity:\n  files:\n    svid: own/svid.pem\n    key: own/key.pem\n    \
             bundle: own/bundle.pem\n    revocation_lists: [revoked.pem]\n    {FEDERATED}\n"
        ),
        "policies: { paths: [policies] }\n".to_owned(),
        "admin: { listen: \"127.0.0.1:0\", socket: admin.sock }\n".to_owned(),
        format!("{keys}\ninbound:\n"),
        inbound("web", format!("address: \"{http1}\""), ""),
        inbound("grpc", format!("address: \"{http2}\", protocol: http2"), ""),
        inbound("tcp", format!("address: \"{tcp}\""), "protocol: tcp, "),
        "outbound: [{ name: proxy, listen: \"127.0.0.1:0\", kind: forward_proxy, limits: { trust_grace: 1s } }]\n".to_owned(),
        "destinations:\n".to_owned(),
        destination("db"),
        destination("cache"),
    ]
    .concat()
}
