//! A destination at whatever address its callers ask for: connections are pooled by host and port,
//! and made only to addresses that pass the guard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::config::{HostPort, UpstreamProtocol};
use crate::forward::{Blueprint, Pool};

/// Hosts that connections are kept to at most, by each worker.
const MOST: usize = 512;
/// How often hosts are looked through for those that nobody calls any more.
const SWEEP: Duration = Duration::from_secs(10);

/// One such destination, as one worker reaches it.
#[derive(Debug)]
pub(crate) struct Originals {
    service: Arc<str>,
    /// What every host of it is reached by, with the limits that they share.
    blueprint: Blueprint,
    /// The worker's; names that callers chose are resolved there and nowhere else.
    runtime: Handle,
    pools: Mutex<HashMap<HostPort, Used>>,
}

#[derive(Debug)]
struct Used {
    pool: Arc<Pool>,
    last: Instant,
}

impl Originals {
    /// A destination that nobody has called yet.
    pub(crate) fn new(service: Arc<str>, blueprint: Blueprint, runtime: Handle) -> Self {
        Self {
            service,
            blueprint,
            runtime,
            pools: Mutex::default(),
        }
    }

    /// What policy knows the destination by.
    pub(crate) fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// What is spoken to it.
    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        self.blueprint.config().protocol
    }

    /// The connections to a host, as requests name it, and a port. To be called for what is
    /// allowed only: callers could fill the table otherwise.
    pub(crate) fn pool(&self, host: &str, port: u16) -> Arc<Pool> {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let host = bare.unwrap_or(host).to_owned();
        let address = HostPort { host, port };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(used) = pools.get_mut(&address) {
            used.last = now;
            return Arc::clone(&used.pool);
        }
        if pools.len() >= MOST {
            forget_oldest(&mut pools);
        }
        let upstream = self.blueprint.at(address.clone()).start(&self.runtime);
        let pool = Pool::tended(upstream, &self.runtime);
        let kept = Arc::clone(&pool);
        pools.insert(
            address,
            Used {
                pool: kept,
                last: now,
            },
        );
        pool
    }

    /// Forgets hosts that nobody calls, for as long as anybody has the destination.
    pub(crate) async fn tend(originals: Weak<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(originals) = originals.upgrade() else {
                return;
            };
            originals.expire();
        }
    }

    fn expire(&self) {
        let limit = self.blueprint.config().pool_idle_timeout;
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, used| used.last.elapsed() <= limit);
    }
}

/// Calls that are under way keep their connections; only the pool is forgotten.
fn forget_oldest(pools: &mut HashMap<HostPort, Used>) {
    let oldest = pools.iter().min_by_key(|(_, used)| used.last);
    if let Some(oldest) = oldest.map(|(address, _)| address.clone()) {
        pools.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Address, AllowedAddresses, UpstreamConfig};
    use crate::forward::SystemResolver;
    use crate::forward::metrics::UpstreamFamilies;
    use crate::outbound::guard::{Guard, Own};

    fn originals() -> Originals {
        let mut config = UpstreamConfig::at(Address::Tcp(HostPort {
            host: "unused".into(),
            port: 1,
        }));
        config.addresses.clear();
        let guard = Guard::new(AllowedAddresses::default(), Own::default());
        let metrics = UpstreamFamilies::default().of(&"internet".into());
        let blueprint = Blueprint::new(config, None, metrics, Arc::new(SystemResolver));
        Originals::new(
            "internet".into(),
            blueprint.guarded(guard),
            Handle::current(),
        )
    }

    #[tokio::test]
    async fn a_host_and_port_have_one_pool_each() {
        let originals = originals();
        let pool = originals.pool("[::1]", 80);
        assert!(Arc::ptr_eq(&pool, &originals.pool("[::1]", 80)));
        assert!(!Arc::ptr_eq(&pool, &originals.pool("[::1]", 81)));
        assert_eq!(pool.config().to_string(), "[::1]:80");
    }

    #[tokio::test]
    async fn callers_cannot_grow_the_table_beyond_its_bound() {
        let originals = originals();
        // Addresses, so that nothing is to be resolved.
        let first = originals.pool("192.0.2.1", 1);
        for number in 0..2 * MOST {
            originals.pool(&format!("198.51.{}.{}", number / 256, number % 256), 80);
            originals.pool("192.0.2.2", 80);
        }
        assert_eq!(originals.pools.lock().unwrap().len(), MOST);
        assert!(!Arc::ptr_eq(&first, &originals.pool("192.0.2.1", 1)));
    }
}
