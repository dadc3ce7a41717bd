//! A destination at whatever address its callers ask for: connections are pooled by host and port,
//! and made only to addresses that pass the guard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::guard::Guard;
use crate::config::{Address, HostPort, UpstreamConfig, UpstreamProtocol};
use crate::forward::{Dialer, Pool, UpstreamTlsClient};

/// Hosts that connections are kept to at most, by each worker.
const MOST: usize = 512;

/// One such destination, as one worker reaches it.
#[derive(Debug)]
pub(crate) struct Originals {
    service: Arc<str>,
    config: UpstreamConfig,
    tls: Option<UpstreamTlsClient>,
    guard: Guard,
    pools: Mutex<HashMap<HostPort, Used>>,
}

#[derive(Debug)]
struct Used {
    pool: Arc<Pool>,
    last: Instant,
}

impl Originals {
    /// A destination that nobody has called yet.
    pub(crate) fn new(
        service: Arc<str>,
        config: UpstreamConfig,
        tls: Option<UpstreamTlsClient>,
        guard: Guard,
    ) -> Self {
        Self {
            service,
            config,
            tls,
            guard,
            pools: Mutex::default(),
        }
    }

    /// What policy knows the destination by.
    pub(crate) fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// What is spoken to it.
    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        self.config.protocol
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
        let pool = Pool::new(Arc::new(self.dialer(&address)));
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

    fn dialer(&self, address: &HostPort) -> Dialer {
        let mut config = self.config.clone();
        config.addresses = vec![Address::Tcp(address.clone())];
        Dialer::new(config, self.tls.clone()).guarded(self.guard.clone())
    }

    /// Closes connections that have been idle for too long, and forgets hosts that nobody calls.
    pub(crate) fn expire(&self) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, used| {
            used.pool.expire();
            used.last.elapsed() <= self.config.pool_idle_timeout
        });
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
    use crate::config::AllowedAddresses;

    fn originals() -> Originals {
        let mut config = UpstreamConfig::at(Address::Tcp(HostPort {
            host: "unused".into(),
            port: 1,
        }));
        config.addresses.clear();
        let guard = Guard::new(AllowedAddresses::default(), Arc::new([]));
        Originals::new("internet".into(), config, None, guard)
    }

    #[test]
    fn a_host_and_port_have_one_pool_each() {
        let originals = originals();
        let pool = originals.pool("[::1]", 80);
        assert!(Arc::ptr_eq(&pool, &originals.pool("[::1]", 80)));
        assert!(!Arc::ptr_eq(&pool, &originals.pool("[::1]", 81)));
        assert_eq!(pool.config().to_string(), "[::1]:80");
    }

    #[test]
    fn callers_cannot_grow_the_table_beyond_its_bound() {
        let originals = originals();
        let first = originals.pool("host-0", 80);
        for number in 0..2 * MOST {
            originals.pool(&format!("host-{number}"), 80);
            originals.pool("kept", 80);
        }
        assert_eq!(originals.pools.lock().unwrap().len(), MOST);
        assert!(!Arc::ptr_eq(&first, &originals.pool("host-0", 80)));
    }
}
