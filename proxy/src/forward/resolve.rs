//! Turns an upstream's configured addresses into endpoints and keeps them current. Names are
//! resolved on the control runtime, so that no call waits for it but those before the first
//! answer. What a name last resolved to stays until it resolves to something else.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::endpoint::Target;
use super::upstream::Upstream;
use crate::config::{Address, HostPort};

/// The wait after a failure; it doubles with each further one, up to `dns_refresh`.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long one resolution may take; the system's resolver may try for minutes.
const LIMIT: Duration = Duration::from_secs(10);

/// The addresses of a name, or why there are none.
pub(crate) type Resolution = io::Result<Vec<SocketAddr>>;

/// Something that knows the addresses of names.
pub(crate) trait Resolve: fmt::Debug + Send + Sync {
    /// The addresses of a name, each with the port.
    fn resolve<'a>(
        &'a self,
        name: &'a HostPort,
    ) -> Pin<Box<dyn Future<Output = Resolution> + Send + 'a>>;
}

/// The resolver of the system: `/etc/hosts`, DNS, and whatever else it is set up to ask.
#[derive(Debug)]
pub(crate) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(
        &'a self,
        name: &'a HostPort,
    ) -> Pin<Box<dyn Future<Output = Resolution> + Send + 'a>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.host.as_str(), name.port)).await?;
            Ok(found.collect())
        })
    }
}

/// The addresses of one upstream, and what its names last resolved to.
#[derive(Debug)]
pub(super) struct AddressBook {
    entries: Vec<Entry>,
}

#[derive(Debug)]
enum Entry {
    /// Needs no resolving.
    Fixed(Target, Arc<str>),
    Name {
        name: HostPort,
        host: Arc<str>,
        found: Vec<SocketAddr>,
        failing: bool,
    },
}

impl AddressBook {
    pub(super) fn new(addresses: &[Address]) -> Self {
        Self {
            entries: addresses.iter().map(Entry::of).collect(),
        }
    }

    /// Whether there is no name in it.
    pub(super) fn is_fixed(&self) -> bool {
        let fixed = |entry: &Entry| matches!(entry, Entry::Fixed(..));
        self.entries.iter().all(fixed)
    }

    /// Every place that is known now, with its host, in the order of the configuration.
    pub(super) fn places(&self) -> Vec<(Target, Arc<str>)> {
        let mut places = Vec::new();
        for entry in &self.entries {
            match entry {
                Entry::Fixed(target, host) => places.push((target.clone(), Arc::clone(host))),
                Entry::Name { host, found, .. } => {
                    let found = found.iter().map(|address| Target::Tcp(*address));
                    places.extend(found.map(|target| (target, Arc::clone(host))));
                }
            }
        }
        places
    }

    /// Resolves every name once more; whether all went well.
    pub(super) async fn refresh(&mut self, resolver: &dyn Resolve) -> bool {
        let mut all_good = true;
        for entry in &mut self.entries {
            if let Entry::Name {
                name,
                found,
                failing,
                ..
            } = entry
            {
                let resolution = tokio::time::timeout(LIMIT, resolver.resolve(name)).await;
                let resolution = resolution.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                all_good &= learn(name, found, failing, resolution);
            }
        }
        all_good
    }
}

/// Takes an answer over; a failure is logged when it begins and when it ends.
fn learn(
    name: &HostPort,
    found: &mut Vec<SocketAddr>,
    failing: &mut bool,
    resolution: Resolution,
) -> bool {
    let why = match resolution {
        Ok(addresses) if !addresses.is_empty() => {
            if std::mem::take(failing) {
                tracing::info!(upstream = %name, "the name resolves again");
            }
            *found = addresses;
            return true;
        }
        Ok(_) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    if !std::mem::replace(failing, true) {
        let kept = found.len();
        tracing::warn!(upstream = %name, error = why, kept, "the name cannot be resolved");
    }
    false
}

impl Entry {
    fn of(address: &Address) -> Self {
        match address {
            Address::Unix(path) => Self::Fixed(Target::Unix(path.clone()), "localhost".into()),
            Address::Tcp(name) => match name.host.parse::<IpAddr>() {
                Ok(ip) => {
                    let target = Target::Tcp(SocketAddr::new(ip, name.port));
                    Self::Fixed(target, name.host.as_str().into())
                }
                Err(_) => Self::Name {
                    name: name.clone(),
                    host: name.host.as_str().into(),
                    found: Vec::new(),
                    failing: false,
                },
            },
        }
    }
}

/// Resolves an upstream's names again and again, for as long as somebody uses it.
pub(super) async fn keep_current(
    upstream: Weak<Upstream>,
    mut book: AddressBook,
    resolver: Arc<dyn Resolve>,
    refresh: Duration,
) {
    let mut wait = FIRST_WAIT;
    loop {
        let all_good = book.refresh(&*resolver).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        upstream.relocate(book.places());
        let mut changes = upstream.changes();
        drop(upstream);
        let pause = if all_good { refresh } else { wait.min(refresh) };
        wait = if all_good { FIRST_WAIT } else { wait * 2 };
        let unused = async { while changes.changed().await.is_ok() {} };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = unused => return,
        }
    }
}
