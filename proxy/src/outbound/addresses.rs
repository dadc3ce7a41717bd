//! Which destination an address belongs to: for connections that were made to an address, and
//! whose bytes name no host. Names are resolved again and again, by a task of its own.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::{Address, DestinationConfig, HostPort};

/// How often names are resolved.
const REFRESH: Duration = Duration::from_secs(15);
/// How long one name may take.
const PATIENCE: Duration = Duration::from_secs(5);

type Known = HashMap<SocketAddr, Owner>;

/// The destination that an address belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Its place in the configuration.
    pub(crate) place: usize,
    /// The host that the address stands for, as the configuration names it.
    pub(crate) host: Arc<str>,
}

/// The addresses of all destinations.
#[derive(Debug)]
pub(crate) struct AddressTable {
    /// Those that are names.
    names: Vec<(Owner, u16)>,
    known: ArcSwap<Known>,
    /// Whether every name has been asked for once.
    asked: watch::Sender<bool>,
}

impl AddressTable {
    /// A table that knows the addresses which are written as such.
    pub(crate) fn of(destinations: &[DestinationConfig]) -> Arc<Self> {
        let (mut names, mut known) = (Vec::new(), Known::new());
        for (place, destination) in destinations.iter().enumerate() {
            for address in &destination.upstream.addresses {
                let Address::Tcp(HostPort { host, port }) = address else {
                    continue;
                };
                let owner = Owner {
                    place,
                    host: host.as_str().into(),
                };
                match host.parse::<IpAddr>() {
                    Ok(ip) => {
                        known.entry((ip, *port).into()).or_insert(owner);
                    }
                    Err(_) => names.push((owner, *port)),
                }
            }
        }
        Arc::new(Self {
            asked: watch::Sender::new(names.is_empty()),
            names,
            known: ArcSwap::from_pointee(known),
        })
    }

    /// The destination that an address belongs to. Waits until every name was asked for once.
    pub(crate) async fn find(&self, address: SocketAddr) -> Option<Owner> {
        let mut asked = self.asked.subscribe();
        let _ = asked.wait_for(|asked| *asked).await;
        self.known.load().get(&address).cloned()
    }

    /// Keeps the names' addresses current, for as long as anybody has the table.
    pub(crate) async fn refresh(table: Weak<Self>) {
        while let Some(table) = table.upgrade().filter(|table| !table.names.is_empty()) {
            let known = table.resolve().await;
            table.known.store(Arc::new(known));
            table.asked.send_replace(true);
            drop(table);
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// What is known and what the names resolve to now; a name that does not resolve keeps the
    /// addresses that it had.
    async fn resolve(&self) -> Known {
        let mut known = Known::clone(&self.known.load());
        for (owner, port) in &self.names {
            let lookup = tokio::net::lookup_host((&*owner.host, *port));
            let Ok(Ok(addresses)) = tokio::time::timeout(PATIENCE, lookup).await else {
                tracing::debug!(
                    host = &*owner.host,
                    "the addresses of a destination stay as they were"
                );
                continue;
            };
            known.retain(|address, known| known != owner || address.port() != *port);
            for address in addresses {
                known.entry(address).or_insert_with(|| owner.clone());
            }
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UpstreamConfig;

    fn destination(addresses: &[&str]) -> DestinationConfig {
        let mut addresses = addresses.iter().map(|address| {
            let (host, port) = address.rsplit_once(':').unwrap();
            Address::Tcp(HostPort {
                host: host.to_owned(),
                port: port.parse().unwrap(),
            })
        });
        let mut upstream = UpstreamConfig::at(addresses.next().unwrap());
        upstream.addresses.extend(addresses);
        DestinationConfig {
            service: "a".into(),
            hosts: Vec::new(),
            ports: Vec::new(),
            upstream,
        }
    }

    #[tokio::test]
    async fn an_address_belongs_to_the_destination_that_names_it() {
        let table = AddressTable::of(&[
            destination(&["192.0.2.1:5432"]),
            destination(&["localhost:5432", "nowhere.invalid:1"]),
        ]);
        let refreshing = tokio::spawn(AddressTable::refresh(Arc::downgrade(&table)));
        let find = async |address: &str| {
            let owner = table.find(address.parse().unwrap()).await?;
            Some((owner.place, owner.host.to_string()))
        };
        assert_eq!(
            find("192.0.2.1:5432").await,
            Some((0, "192.0.2.1".to_owned()))
        );
        assert_eq!(
            find("127.0.0.1:5432").await,
            Some((1, "localhost".to_owned()))
        );
        assert_eq!(find("127.0.0.1:5433").await, None);
        refreshing.abort();
    }
}
