//! Finds what a host and a port stand for: the host itself goes before what is below a name, the
//! longer name before the shorter, those before any host; and one that names its ports before one
//! that takes all.

use std::collections::HashMap;

use crate::config::HostPattern;

/// What stands behind hosts and ports.
#[derive(Debug)]
pub(crate) struct HostTable<T> {
    exact: HashMap<Box<str>, Vec<Entry<T>>>,
    below: HashMap<Box<str>, Vec<Entry<T>>>,
    any: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    /// Empty stands for all.
    ports: Box<[u16]>,
    value: T,
}

impl<T: Clone> HostTable<T> {
    /// A table in which nothing is found.
    pub(crate) fn new() -> Self {
        Self {
            exact: HashMap::new(),
            below: HashMap::new(),
            any: Vec::new(),
        }
    }

    /// Adds what stands behind any of `hosts` on any of `ports`; on every port where there are
    /// none.
    pub(crate) fn add(&mut self, hosts: &[HostPattern], ports: &[u16], value: &T) {
        for host in hosts {
            let entries = match host {
                HostPattern::Exact(name) => self.exact.entry(name.as_str().into()).or_default(),
                HostPattern::Below(name) => self.below.entry(name.as_str().into()).or_default(),
                HostPattern::Any => &mut self.any,
            };
            let entry = Entry {
                ports: ports.into(),
                value: value.clone(),
            };
            // Those with ports first, so that the first that takes a port is the one.
            match ports.is_empty() {
                true => entries.push(entry),
                false => entries.insert(0, entry),
            }
        }
    }

    /// What a canonical host and a port stand for.
    pub(crate) fn find(&self, host: &str, port: u16) -> Option<&T> {
        self.find_exact(host, port)
            .or_else(|| self.find_below(host, port))
            .or_else(|| taking(&self.any, port))
    }

    /// What this very host and a port stand for.
    pub(crate) fn find_exact(&self, host: &str, port: u16) -> Option<&T> {
        taking(self.exact.get(host)?, port)
    }

    fn find_below(&self, host: &str, port: u16) -> Option<&T> {
        if self.below.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((label, name)) = rest.split_once('.') {
            rest = name;
            let entries = self.below.get(name).filter(|_| !label.is_empty());
            if let Some(found) = entries.and_then(|entries| taking(entries, port)) {
                return Some(found);
            }
        }
        None
    }
}

fn taking<T>(entries: &[Entry<T>], port: u16) -> Option<&T> {
    let takes = |entry: &&Entry<T>| entry.ports.is_empty() || entry.ports.contains(&port);
    entries.iter().find(takes).map(|entry| &entry.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> HostTable<&'static str> {
        let exact = |name: &str| HostPattern::Exact(name.into());
        let below = |name: &str| HostPattern::Below(name.into());
        let mut table = HostTable::new();
        table.add(&[exact("api.example")], &[], &"api");
        table.add(&[exact("api.example")], &[9000, 9001], &"api on 9000");
        table.add(&[below("api.example")], &[443], &"below api");
        table.add(&[below("example")], &[], &"below example");
        table.add(&[HostPattern::Any], &[80, 443], &"any");
        table
    }

    #[test]
    fn the_nearest_name_that_takes_the_port_is_found() {
        let table = table();
        let rows = [
            ("api.example", 80, Some("api")),
            ("api.example", 9001, Some("api on 9000")),
            ("v1.api.example", 443, Some("below api")),
            ("a.v1.api.example", 443, Some("below api")),
            ("v1.api.example", 22, Some("below example")),
            ("other.example", 22, Some("below example")),
            ("example", 443, Some("any")),
            ("example", 22, None),
            ("[::1]", 80, Some("any")),
            (".api.example", 443, Some("below example")),
            ("", 1, None),
        ];
        for (host, port, expected) in rows {
            assert_eq!(table.find(host, port).copied(), expected, "{host}:{port}");
        }
    }
}
