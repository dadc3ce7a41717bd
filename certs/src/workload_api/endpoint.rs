//! Where the Workload API is (SPIFFE Workload Endpoint §4): `unix:///path` or `tcp://IP:port`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The environment variable that names the endpoint.
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The address of a Workload API.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A unix socket, by absolute path.
    Unix(PathBuf),
    /// An IP address and port. Names are not allowed: there is nothing to prove them with.
    Tcp(SocketAddr),
}

/// Why a text is not the address of a Workload API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The variable is not set.
    #[error(
        "the environment variable `SPIFFE_ENDPOINT_SOCKET` is not set; set it, or configure the endpoint, for example `unix:///run/spire/agent.sock`"
    )]
    NotSet,
    /// The scheme is neither `unix` nor `tcp`.
    #[error(
        "`{0}` is not a Workload API endpoint; write `unix:///absolute/path` or `tcp://IP:port`"
    )]
    Scheme(String),
    /// The path is relative, or there is none, or a host, query or fragment stands beside it.
    #[error(
        "`{0}`: a unix endpoint is an absolute path without host, query and fragment: `unix:///absolute/path`"
    )]
    Path(String),
    /// The address is not an IP and a port.
    #[error(
        "`{0}`: a tcp endpoint is an IP address and a port and nothing else: `tcp://127.0.0.1:8000`"
    )]
    Address(String),
}

impl Endpoint {
    /// The endpoint in `SPIFFE_ENDPOINT_SOCKET`.
    ///
    /// # Errors
    ///
    /// When the variable is not set or not an endpoint.
    pub fn from_environment() -> Result<Self, EndpointError> {
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => text.parse(),
            _ => Err(EndpointError::NotSet),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(rest).ok_or_else(|| EndpointError::Path(text.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            return tcp(rest).ok_or_else(|| EndpointError::Address(text.to_owned()));
        }
        Err(EndpointError::Scheme(text.to_owned()))
    }
}

/// `unix:///a` and `unix:/a`; `unix://a/b` would be a host.
fn unix(rest: &str) -> Option<Endpoint> {
    let path = match rest.strip_prefix("//") {
        Some(path) => path,
        None => rest,
    };
    let absolute = Path::new(path).is_absolute() && path.len() > 1;
    let plain = !path.contains(['?', '#', '\0']);
    (absolute && plain).then(|| Endpoint::Unix(PathBuf::from(path)))
}

fn tcp(rest: &str) -> Option<Endpoint> {
    let address: SocketAddr = rest.parse().ok()?;
    (address.port() != 0).then_some(Endpoint::Tcp(address))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => match address.ip() {
                IpAddr::V4(ip) => write!(f, "tcp://{ip}:{}", address.port()),
                IpAddr::V6(ip) => write!(f, "tcp://[{ip}]:{}", address.port()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        let table = [
            (
                "unix:///run/spire/agent.sock",
                "unix:///run/spire/agent.sock",
            ),
            ("unix:/run/spire/agent.sock", "unix:///run/spire/agent.sock"),
            ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
            ("tcp://[::1]:8000", "tcp://[::1]:8000"),
        ];
        for (text, printed) in table {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn refuses_everything_else() {
        use EndpointError as E;
        type Refusal = fn(String) -> E;
        let table: [(&str, Refusal); 12] = [
            ("", E::Scheme),
            ("/run/agent.sock", E::Scheme),
            ("http://127.0.0.1:8000", E::Scheme),
            ("unix:", E::Path),
            ("unix:///", E::Path),
            ("unix://host/run/agent.sock", E::Path),
            ("unix:run/agent.sock", E::Path),
            ("unix:///run/agent.sock?a=b", E::Path),
            ("tcp://localhost:8000", E::Address),
            ("tcp://127.0.0.1", E::Address),
            ("tcp://127.0.0.1:0", E::Address),
            ("tcp://127.0.0.1:8000/path", E::Address),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<Endpoint>(), Err(error(text.to_owned())));
        }
    }
}
