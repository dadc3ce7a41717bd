//! The check of a client's X509-SVID, as rustls asks for it in the middle of a handshake: the profile
//! of the leaf and its path to an authority of its own trust domain (`unknown/...`), the chain that
//! is remembered (`returning/...`), and chains that are refused. The proof that the client holds the
//! key is not in it: that is rustls's, and asked for in every handshake.
//!
//! `cargo bench -p wayleave-benches --bench svid [-- --table | --test]`
#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing better to do"
)]

mod papers;

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result};
use cap::Cap;
use papers::{Authority, Chain};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error};
use wayleave_benches::micro::{Micro, Promise, Work};
use wayleave_certs::tls::bench::client_verifier;
use wayleave_certs::{Identity, IdentityPublisher, Svid, TrustBundle};

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";
const SHOP: &str = "spiffe://shop.example/ns/web/sa/shop";
const STRANGER: &str = "spiffe://other.example/ns/web/sa/cart";

/// How many chains are remembered: as many as by a listener of which nobody said otherwise.
const REMEMBERED: usize = 1_024;
/// How many different peers come back in turn; as many as are sure to be remembered.
const PEERS: usize = 512;

/// Chains that are shown in turn.
struct Check<'a> {
    verifier: Arc<dyn ClientCertVerifier>,
    /// As rustls has them: the bytes are the connection's.
    chains: Vec<Vec<CertificateDer<'a>>>,
    expected: Result<(), CertificateError>,
    next: usize,
    count: usize,
}

impl<'a> Check<'a> {
    fn new(
        verifier: Arc<dyn ClientCertVerifier>,
        chains: &'a [Chain],
        expected: Result<(), CertificateError>,
    ) -> Self {
        let borrow = |chain: &'a Chain| chain.iter().map(|der| der.as_ref().into()).collect();
        Self {
            verifier,
            chains: chains.iter().map(borrow).collect(),
            expected,
            next: 0,
            count: 0,
        }
    }

    fn check_next(&mut self) {
        let chain = self.chains.get(self.next % self.chains.len());
        let (leaf, intermediates) = chain.and_then(|c| c.split_first()).expect("a chain");
        self.next += 1;
        let verifier = &self.verifier;
        let answer = verifier.verify_client_cert(black_box(leaf), intermediates, UnixTime::now());
        let expected = self.expected.clone().map_err(Error::InvalidCertificate);
        assert_eq!(answer.map(drop), expected);
    }
}

impl Work for Check<'_> {
    fn prepare(&mut self, count: usize) {
        self.count = count;
    }

    fn work(&mut self) {
        (0..self.count).for_each(|_| self.check_next());
    }
}

/// Our own identity, which trusts one root for its trust domain.
fn identity(root: &Authority) -> Result<Arc<Identity>> {
    let (chain, key) = root.with_key(SHOP)?;
    let svid = Svid::from_der(chain, key)?;
    let trust_domain = svid.id().trust_domain().clone();
    let bundle = TrustBundle::from_der(trust_domain, vec![root.certificate().clone()])?;
    let (mut publisher, reader) = IdentityPublisher::new();
    publisher.publish(Arc::new(svid), [bundle].into_iter().collect());
    reader.current().context("it was published")
}

fn accepted(micro: &mut Micro, identity: &Arc<Identity>, root: &Authority) -> Result<()> {
    let verifier = |remembered| client_verifier(Arc::clone(identity), remembered);
    let intermediate = root.intermediate()?;
    let chains = [
        ("root, leaf", [root.chain(&[CART])?]),
        ("root, intermediate, leaf", [intermediate.chain(&[CART])?]),
    ];
    for (name, chain) in &chains {
        let check = &mut Check::new(verifier(0), chain, Ok(()));
        micro.measure(&format!("unknown/{name}"), Promise::None, check);
    }
    for (name, chain) in &chains {
        let check = &mut Check::new(verifier(REMEMBERED), chain, Ok(()));
        // The chain is put together to be compared.
        let promise = Promise::Bytes(chain.concat().len() * size_of::<CertificateDer<'_>>());
        micro.measure(&format!("returning/{name}"), promise, check);
    }
    let peers = (0..PEERS).map(|peer| root.chain(&[&format!("{CART}-{peer}")]));
    let peers = peers.collect::<Result<Vec<_>>>()?;
    let check = &mut Check::new(verifier(REMEMBERED), &peers, Ok(()));
    let promise = Promise::Bytes(size_of::<CertificateDer<'_>>());
    micro.measure(&format!("returning/one of {PEERS} in turn"), promise, check);
    Ok(())
}

fn refused(micro: &mut Micro, identity: &Arc<Identity>, root: &Authority) -> Result<()> {
    use CertificateError::{BadEncoding, Expired, UnknownIssuer};
    let examples = [
        ("two URI SANs", [root.chain(&[CART, SHOP])?], BadEncoding),
        ("no bundle", [root.chain(&[STRANGER])?], UnknownIssuer),
        ("expired", [root.expired(CART)?], Expired),
        (
            "signed by another",
            [Authority::root()?.chain(&[CART])?],
            UnknownIssuer,
        ),
    ];
    for (name, chain, error) in &examples {
        let verifier = client_verifier(Arc::clone(identity), REMEMBERED);
        let check = &mut Check::new(verifier, chain, Err(error.clone()));
        micro.measure(&format!("refused/{name}"), Promise::None, check);
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut micro = Micro::from_args(|| ALLOCATOR.total_allocated());
    let root = Authority::root()?;
    let identity = identity(&root)?;
    accepted(&mut micro, &identity, &root)?;
    refused(&mut micro, &identity, &root)?;
    micro.finish();
    Ok(())
}
