//! Network namespaces of a test's own: their own interfaces, addresses and iptables rules, which go
//! away with them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::tool;

/// The user that a workload runs as; the sidecar runs as the test does, as root.
const WORKLOAD: &str = "65534";

/// The pod's address, and those of hosts outside (RFC 5737, RFC 3849): nobody's elsewhere.
pub(crate) const POD: &str = "198.51.100.1";
pub(crate) const HERE: &str = "198.51.100.10";
pub(crate) const THERE: &str = "198.51.100.11";
pub(crate) const HERE_V6: &str = "2001:db8::10";

/// A pod in one namespace, and all that is outside of it in another, with a wire between them.
pub(crate) struct Namespace {
    pod: String,
    outside: String,
}

impl Namespace {
    /// Two new namespaces. Nothing, and a notice, where this machine does not let us make them.
    pub(crate) async fn start() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        for program in ["ip", "iptables", "ip6tables", "setpriv", "curl", "bash"] {
            tool::find(program)?;
        }
        if !rustix::process::geteuid().is_root() {
            tool::skip("network namespaces need root");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pod = format!("wayleave-{}-{number}", std::process::id());
        let namespace = Self {
            outside: format!("{pod}-out"),
            pod,
        };
        let Self { pod, outside } = &namespace;
        let wire = format!(
            "ip netns add {pod}
             ip netns add {outside}
             ip -n {pod} link add eth0 type veth peer name eth0 netns {outside}
             ip -n {pod} address add {POD}/24 dev eth0
             ip -n {pod} address add 2001:db8::1/64 dev eth0 nodad
             ip -n {outside} address add {HERE}/24 dev eth0
             ip -n {outside} address add {THERE}/24 dev eth0
             ip -n {outside} address add {HERE_V6}/64 dev eth0 nodad
             for each in {pod} {outside}; do ip -n $each link set lo up; ip -n $each link set eth0 up; done
             ip netns exec {pod} iptables -w -t nat -L -n
             ip netns exec {pod} ip6tables -w -t nat -L -n"
        );
        let made = tool::run(Command::new("sh").args(["-euc", &wire])).await;
        if !made.0.status.success() {
            tool::skip(&format!("no network namespaces: {}", made.stderr().trim()));
            return None;
        }
        Some(namespace)
    }

    /// A command of root's in the pod.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.pod]).arg(program);
        command
    }

    /// A command of the workload's.
    pub(crate) fn workload(&self, program: &str) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid", WORKLOAD, "--regid", WORKLOAD, "--clear-groups"]);
        command.arg(program).current_dir("/");
        command
    }

    /// Runs a shell script of root's in the pod.
    pub(crate) async fn run(&self, script: &str) {
        let mut shell = self.command("sh");
        tool::run(shell.args(["-euc", script])).await.successful();
    }

    /// Listens outside of the pod.
    pub(crate) fn listen(&self, address: &str, port: u16) -> TcpListener {
        listen_in(
            &self.outside,
            (address.parse::<IpAddr>().unwrap(), port).into(),
        )
    }

    /// Listens in the pod, as the application does.
    pub(crate) fn listen_in_pod(&self, address: SocketAddr) -> TcpListener {
        listen_in(&self.pod, address)
    }

    /// Connects from outside of the pod.
    pub(crate) fn connect(&self, address: SocketAddr) -> TcpStream {
        let connect = move || std::net::TcpStream::connect(address).unwrap();
        let stream = inside(&self.outside, connect);
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    }
}

fn listen_in(namespace: &str, address: SocketAddr) -> TcpListener {
    let listener = inside(namespace, move || {
        std::net::TcpListener::bind(address).unwrap()
    });
    listener.set_nonblocking(true).unwrap();
    TcpListener::from_std(listener).unwrap()
}

/// What is made on a thread of the namespace; a socket stays in the one that it was made in.
fn inside<T: Send + 'static>(namespace: &str, make: impl FnOnce() -> T + Send + 'static) -> T {
    let path = Path::new("/run/netns").join(namespace);
    let thread = std::thread::spawn(move || {
        let namespace = std::fs::File::open(path).unwrap();
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        make()
    });
    thread.join().unwrap()
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for name in [&self.pod, &self.outside] {
            let mut delete = std::process::Command::new("ip");
            delete.args(["netns", "delete", name]);
            let _ = delete.stdin(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}
