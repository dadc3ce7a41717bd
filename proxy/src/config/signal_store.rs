//! Checks `signals.store`: where a fleet shares what it knows against principals.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use wayleave_authz::signals::Signal;

use super::defaults as default;
use super::problem::{Wrong, quoted};
use super::raw::{Field, RawSignalStore, Section};
use super::scalar;
use super::secret::Secret;
use super::tree::Node;
use super::validate::Validator;
use super::{HostPort, validate};

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(30);
const RECONCILE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10);
/// How many times the others are heard of within the window of a counter, at least.
const PER_WINDOW: u32 = 5;
const MAX_DATABASE: u32 = 1_000_000;
const MAX_PREFIX: usize = 64;
const PORT: u16 = 6_379;
const FORM: &str = "`memory`, or `redis://[user:password@]host[:port][/db]` (`rediss://` with TLS)";

/// A Redis or Valkey server that the sidecars of a fleet share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalStoreConfig {
    /// The server.
    pub url: StoreUrl,
    /// The file with the password, read anew for each connection; instead of one in the URL.
    pub password_file: Option<PathBuf>,
    /// The authorities that vouch for the server; those of the system by default.
    pub ca_file: Option<PathBuf>,
    /// What the names of all keys and channels begin with; `wayleave:` by default.
    pub prefix: String,
    /// How long connecting and each answer may take; 50 ms to 30 s, 2 s by default.
    pub timeout: Duration,
    /// The counters that count the calls of a principal at all sidecars.
    pub fleet_wide: Vec<Signal>,
    /// How old what is known of the counts of others may be; 100 ms to 10 s, 1 s by default.
    pub reconcile_every: Duration,
}

/// Where the server is, and who we are there. Shown without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Where it listens.
    pub address: HostPort,
    /// The name of the user; the server's default user without.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u32,
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}/{}", self.address, self.database)
    }
}

impl Validator<'_> {
    /// The outer `None` is a problem, the inner one a store in memory.
    pub(super) fn signal_store(
        &mut self,
        raw: Option<&Section<RawSignalStore>>,
    ) -> Option<Option<SignalStoreConfig>> {
        let Some(Section(at, raw)) = raw else {
            return Some(None);
        };
        let base = self.base;
        let url = self.required(*at, "url", raw.url, store_url);
        let password_file = self.maybe(raw.password_file, |node| scalar::path(node, base));
        let ca_file = self.maybe(raw.ca_file, |node| scalar::path(node, base));
        let prefix = self.optional(raw.prefix, default::STORE_PREFIX.to_owned(), prefix);
        let timeout = self.time(raw.timeout, default::STORE_TIMEOUT, &TIMEOUT);
        let every = self.time(raw.reconcile_every, default::RECONCILE_EVERY, &RECONCILE);
        let fleet_wide = self.fleet_wide(raw, every.unwrap_or(default::RECONCILE_EVERY));
        let Some(url) = url? else {
            return self.only_memory(raw).then_some(None);
        };
        let fit = self.store_keys_fit(raw, &url);
        fit.then_some(())?;
        Some(Some(SignalStoreConfig {
            url,
            password_file: password_file?,
            ca_file: ca_file?,
            prefix: prefix?,
            timeout: timeout?,
            fleet_wide: fleet_wide?,
            reconcile_every: every?,
        }))
    }

    fn fleet_wide(&mut self, raw: &RawSignalStore, every: Duration) -> Option<Vec<Signal>> {
        let Some(fields) = raw.fleet_wide.as_ref().map(validate::content) else {
            return Some(Vec::new());
        };
        self.distinct(fields, "counter", |node| counter(node, every))
    }

    /// Whether no key is given that only a server has a use for.
    fn only_memory(&mut self, raw: &RawSignalStore) -> bool {
        let list = raw
            .fleet_wide
            .as_ref()
            .and_then(|Section(_, list)| list.first());
        let keys = [
            raw.password_file,
            raw.ca_file,
            raw.prefix,
            raw.timeout,
            list.copied(),
            raw.reconcile_every,
        ];
        let wrong = Wrong::new("has no use where the store is this process's memory");
        let wrong = wrong.help("set `url` to that of a Redis or Valkey server, or leave it out");
        self.none_of(&keys, &wrong)
    }

    fn store_keys_fit(&mut self, raw: &RawSignalStore, url: &StoreUrl) -> bool {
        let mut fit = true;
        if url.password.is_some() {
            let wrong = Wrong::new("the URL has a password already");
            fit &= self.none_of(&[raw.password_file], &wrong.help("keep one of the two"));
        }
        if !url.tls {
            let wrong = Wrong::new("has no use without TLS");
            let wrong = wrong.help("write `rediss://` instead of `redis://`, or leave it out");
            fit &= self.none_of(&[raw.ca_file], &wrong);
        }
        fit
    }

    fn none_of(&mut self, fields: &[Option<Field>], wrong: &Wrong) -> bool {
        let given: Vec<_> = fields.iter().flatten().collect();
        for field in &given {
            self.note(Some(**field), wrong.clone());
        }
        given.is_empty()
    }
}

fn counter(node: &Node, every: Duration) -> Result<Signal, Wrong> {
    let fits = |signal: &Signal| {
        let window = signal.window().filter(|_| signal.is_summable());
        window.is_some_and(|window| window >= every * PER_WINDOW)
    };
    let fitting = || {
        let names = Signal::ALL.iter().filter(|signal| fits(signal));
        let names: Vec<_> = names.map(|signal| signal.name()).collect();
        format!("expected one of: {}", names.join(", "))
    };
    let written = scalar::text(node, "the name of a counter, such as `calls_per_minute`")?;
    match Signal::from_name(written) {
        Some(signal) if fits(&signal) => Ok(signal),
        Some(signal) if signal.is_summable() => Err(Wrong::new(format!(
            "the window of `{written}` is too short to be reconciled every {every:?}"
        ))
        .help(fitting())),
        _ => Err(Wrong::new(format!(
            "`{}` is no counter that a fleet can share",
            quoted(written)
        ))
        .help(fitting())),
    }
}

fn prefix(node: &Node) -> Result<String, Wrong> {
    let expected = "1 to 64 letters, digits and `:`, `.`, `_`, `-`, `{`, `}`, such as `wayleave:`";
    let written = scalar::text(node, expected)?;
    // None that a pattern of an access control list would read otherwise.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":._-{}".contains(&byte);
    if written.len() <= MAX_PREFIX && written.bytes().all(allowed) {
        return Ok(written.to_owned());
    }
    let wrong = Wrong::new(format!("`{}` is not a prefix", quoted(written)));
    Err(wrong.help(format!("expected {expected}")))
}

/// The server, or none for this process's memory.
///
/// SECURITY: no message repeats what was written, which may have a password anywhere.
fn store_url(node: &Node) -> Result<Option<StoreUrl>, Wrong> {
    let written = scalar::text(node, FORM)?;
    if written == "memory" {
        return Ok(None);
    }
    parse(written).map(Some).map_err(|why| {
        let wrong = Wrong::new(format!("this is not the URL of a store: {why}"));
        wrong.help(format!("expected {FORM}"))
    })
}

fn parse(written: &str) -> Result<StoreUrl, &'static str> {
    let (scheme, rest) = written.split_once("://").ok_or("it has no scheme")?;
    let tls = match scheme {
        "redis" => false,
        "rediss" => true,
        _ => return Err("its scheme is neither `redis` nor `rediss`"),
    };
    if rest.contains(['?', '#']) {
        return Err("it has a query or a fragment; percent-encode `?` and `#` in a password");
    }
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let (host, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, password) = match user {
        Some(user) => user_of(user)?,
        None => (None, None),
    };
    Ok(StoreUrl {
        tls,
        address: address(host)?,
        user,
        password,
        database: database_of(database)?,
    })
}

fn user_of(written: &str) -> Result<(Option<String>, Option<Secret>), &'static str> {
    if written.contains(['/', '@']) {
        return Err("percent-encode `/`, `@` and `:` in a user or a password");
    }
    let decode = |part: &str| {
        let decoded = percent_decode_str(part).decode_utf8();
        let decoded = decoded.map_err(|_| "its user or password is not UTF-8")?;
        Ok::<_, &'static str>((!decoded.is_empty()).then(|| decoded.into_owned()))
    };
    let (user, password) = written.split_once(':').unwrap_or((written, ""));
    let (user, password) = (decode(user)?, decode(password)?);
    if password.is_none() && user.is_none() {
        return Err("there is neither a user nor a password before the `@`");
    }
    Ok((user, password.map(Secret::new)))
}

fn address(written: &str) -> Result<HostPort, &'static str> {
    let only_host = match written.strip_prefix('[') {
        Some(rest) => rest.ends_with(']'),
        None => !written.contains(':'),
    };
    if only_host {
        let host = scalar::canonical_host(written).ok_or("its host is neither a name nor an IP")?;
        return Ok(HostPort { host, port: PORT });
    }
    scalar::host_port_of(written).map_err(|_| "its host or port cannot be read")
}

fn database_of(written: &str) -> Result<u32, &'static str> {
    if written.is_empty() {
        return Ok(0);
    }
    let number = written
        .parse()
        .ok()
        .filter(|number| *number <= MAX_DATABASE);
    number.ok_or("the number of its database cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_with_its_user_and_shown_without_the_password() {
        let url = parse("rediss://way%3Aleave:p%40ss%2F@Cache.example:6380/3").unwrap();
        assert!(url.tls && url.database == 3);
        assert_eq!(url.user.as_deref(), Some("way:leave"));
        assert_eq!(url.password.as_ref().map(Secret::reveal), Some("p@ss/"));
        assert_eq!(url.to_string(), "rediss://cache.example:6380/3");
        assert!(!format!("{url:?}").contains("p@ss"));
        let url = parse("redis://:pw@[::1]").unwrap();
        assert_eq!(url.to_string(), "redis://[::1]:6379/0");
        assert!(url.user.is_none() && url.password.is_some());
        assert_eq!(parse("redis://h:1").unwrap().password, None);
    }

    #[test]
    fn a_url_that_is_none_is_refused_with_the_reason() {
        for (written, why) in [
            ("cache:6379", "no scheme"),
            ("http://cache", "neither"),
            ("redis://u:p/w@cache", "percent-encode"),
            ("redis://u:p?w@cache", "percent-encode"),
            ("redis://@cache", "neither a user"),
            ("redis://cache:0", "host or port"),
            ("redis://", "host"),
            ("redis://cache/one", "database"),
        ] {
            let told = parse(written).unwrap_err();
            assert!(told.contains(why), "{written}: {told}");
        }
    }
}
