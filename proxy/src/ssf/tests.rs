//! Tokens as a table: each that breaks a rule with its error and none with an effect; keys that
//! rotate; order, replay, and what a crash leaves.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use wayleave_authz::signals::RiskLevel;
use wayleave_identity::SpiffeId;

use super::effects::{Because, Effects, NotKept};
use super::health::Health;
use super::intake::Intake;
use super::journal::Journal;
use super::jwks::Keys;
use super::keys::KeySet;
use super::ledger::Verdict;
use super::metrics::SsfFamilies;
use super::refusal::Refusal;
use super::set::{Set, Unverified, since_epoch};
use super::transmitter::Transmitter;
use crate::config::{Config, TransmitterConfig, parse};

const ISSUER: &str = "https://idp.example";
const AUDIENCE: &str = "https://orders.shop.example";
const CART: &str = "spiffe://shop.example/cart";
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const RISK: &str = "https://schemas.openid.net/secevent/caep/event-type/risk-level-change";
const DEVICE: &str = "https://schemas.openid.net/secevent/caep/event-type/device-compliance-change";
const CREDENTIAL: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn seconds() -> u64 {
    since_epoch(SystemTime::now()) / 1_000
}

/// A key of a transmitter.
enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn p256() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self::Ec(key, "P-256")
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                // Two integers in DER, of 2048 and of 17 bits.
                let der = key.public_key().as_ref();
                let (n, e) = (b64(&der[9..265]), b64(&der[267..270]));
                json!({"kty": "RSA", "kid": kid, "n": n, "e": e})
            }
            Self::Ec(key, curve) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "kid": kid, "x": b64(x), "y": b64(y)})
            }
            Self::Ed(key) => {
                let x = b64(key.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "use": "sig"})
            }
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let padding: &dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key, _) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        self.raw(&header.to_string(), &claims.to_string())
    }

    fn raw(&self, header: &str, claims: &str) -> String {
        let parsed: Value = serde_json::from_str(header).unwrap();
        let message = format!("{}.{}", b64(header), b64(claims));
        let algorithm = parsed["alg"].as_str().unwrap_or_default();
        format!(
            "{message}.{}",
            b64(self.sign(algorithm, message.as_bytes()))
        )
    }
}

fn header(algorithm: &str, kid: &str) -> Value {
    json!({"typ": "secevent+jwt", "alg": algorithm, "kid": kid})
}

/// The claims of a good token.
fn claims(jti: &str, event: &str, content: Value) -> Value {
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": seconds(),
        "jti": jti,
        "sub_id": {"format": "uri", "uri": CART},
        "events": {event: content},
    })
}

/// `claims` with one of them changed, or taken away.
fn with(name: &str, value: Value) -> Value {
    let mut all = claims("a", REVOKED, json!({}));
    let object = all.as_object_mut().unwrap();
    match value {
        Value::Null => object.remove(name),
        value => object.insert(name.to_owned(), value),
    };
    all
}

/// Remembers what it was told.
#[derive(Debug, Default)]
struct Recorded {
    told: Mutex<Vec<String>>,
    /// Whether nothing can be kept.
    broken: Mutex<bool>,
}

impl Recorded {
    fn tell(&self, what: String) -> Result<(), NotKept> {
        self.told.lock().unwrap().push(what);
        Ok(())
    }

    fn all(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

impl Effects for Recorded {
    fn revoke(&self, principal: &SpiffeId, because: &Because) -> Result<(), NotKept> {
        assert_eq!(&*because.transmitter, "idp");
        self.tell(format!("revoke {principal}"))
    }

    fn revoke_serial(&self, serial: &str, _: &Because) -> Result<(), NotKept> {
        self.tell(format!("serial {serial}"))
    }

    fn risk(&self, principal: &SpiffeId, level: RiskLevel, _: &Because) -> Result<(), NotKept> {
        self.tell(format!("risk {principal} {}", level.as_str()))
    }

    fn kept(&self) -> Pin<Box<dyn Future<Output = Result<(), NotKept>> + Send + '_>> {
        let broken = *self.broken.lock().unwrap();
        Box::pin(async move { if broken { Err(NotKept) } else { Ok(()) } })
    }
}

/// A receiver with one transmitter, whose keys and state are in a folder.
struct Receiver {
    transmitter: Transmitter,
    effects: Arc<Recorded>,
}

impl Receiver {
    fn start(folder: &Path, keys: &str) -> Self {
        std::fs::write(folder.join("jwks.json"), keys).unwrap();
        let effects = Arc::new(Recorded::default());
        let config = config(folder).signals.ssf[0].clone();
        let (journal, ledger) = Journal::open(folder, since_epoch(SystemTime::now())).unwrap();
        let intake = Intake::start(journal, ledger, Arc::clone(&effects) as Arc<dyn Effects>);
        Self {
            transmitter: transmitter(config, intake),
            effects,
        }
    }

    async fn receive(&self, token: &str) -> Result<Verdict, Refusal> {
        self.transmitter.receive(token.as_bytes(), None).await
    }
}

fn transmitter(config: TransmitterConfig, intake: Intake) -> Transmitter {
    let keys = Keys::open(&config.jwks).unwrap();
    let health = Health::new(SsfFamilies::default().of(&config.name));
    Transmitter::new(config, keys, health, intake)
}

fn config(folder: &Path) -> Config {
    let text = format!(
        "identity: {{files: {{svid: a, key: b, bundle: c}}}}
policies: {{paths: [p]}}
inbound: [{{name: o, listen: '127.0.0.1:0', service: o, upstream: {{address: '127.0.0.1:9'}}}}]
signals:
  state_dir: state
  ssf:
    - name: idp
      issuer: {ISSUER}
      audience: ['{AUDIENCE}', urn:other]
      jwks: jwks.json
      trust_domains: [shop.example]
      on_noncompliant: high_risk
      push: {{listen: '127.0.0.1:0', path: /ssf}}
"
    );
    parse("w.yaml", &text, folder).unwrap()
}

fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Every rule that a token may break, each with its error, and none of them with an effect.
#[tokio::test]
async fn rejects_a_token_that_breaks_a_rule_and_it_has_no_effect() {
    use Refusal as R;
    let (key, stranger) = (Signer::p256(), Signer::p256());
    let folder = folder();
    let receiver = Receiver::start(folder.path(), &key_set(&[key.jwk("k1")]));
    let good = header("ES256", "k1");
    let claimed = |claims: Value| key.token(&good, &claims);
    let headed = |header: Value| key.token(&header, &claims("a", REVOKED, json!({})));
    let plain = claims("a", REVOKED, json!({}));
    let valid = key.token(&good, &plain);
    let (message, signature) = valid.rsplit_once('.').unwrap();
    let unsigned = format!(
        "{}.{}.",
        b64(header("none", "k1").to_string()),
        b64(plain.to_string())
    );
    // The public key as the secret: HMAC over its bytes, as a careless verifier would check it.
    let hs256 = {
        let message = format!(
            "{}.{}",
            b64(header("HS256", "k1").to_string()),
            b64(plain.to_string())
        );
        let public = receiver_key(&key);
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
        let tag = aws_lc_rs::hmac::sign(&secret, message.as_bytes());
        format!("{message}.{}", b64(tag))
    };
    let other_claims = b64(with("jti", json!("b")).to_string());
    let swapped = format!(
        "{}.{other_claims}.{signature}",
        message.split_once('.').unwrap().0
    );
    let two = json!({REVOKED: {}, RISK: {"current_level": "HIGH"}});
    let twice = key.raw(
        &good.to_string(),
        &plain
            .to_string()
            .replacen('{', "{\"iss\":\"https://evil.example\",", 1),
    );
    let table: Vec<(&str, String, Refusal)> = vec![
        (
            "forged by a stranger",
            stranger.token(&good, &plain),
            R::Signature,
        ),
        ("claims swapped", swapped, R::Signature),
        ("signature empty", format!("{message}."), R::Signature),
        ("alg none", unsigned, R::Algorithm),
        ("HS256 with the public key", hs256, R::Algorithm),
        (
            "alg of another kind of key",
            headed(header("RS256", "k1")),
            R::UnknownKey,
        ),
        ("alg unknown", headed(header("ES512", "k1")), R::Algorithm),
        ("unknown kid", headed(header("ES256", "k2")), R::UnknownKey),
        (
            "kid no text",
            headed(json!({"typ": "secevent+jwt", "alg": "ES256", "kid": 1})),
            R::Header,
        ),
        (
            "typ missing",
            headed(json!({"alg": "ES256", "kid": "k1"})),
            R::Type,
        ),
        (
            "typ JWT",
            headed(json!({"typ": "JWT", "alg": "ES256", "kid": "k1"})),
            R::Type,
        ),
        (
            "crit",
            headed(json!({"typ": "secevent+jwt", "alg": "ES256", "kid": "k1", "crit": ["b64"]})),
            R::Critical,
        ),
        (
            "wrong issuer",
            claimed(with("iss", json!("https://evil.example"))),
            R::Issuer,
        ),
        (
            "issuer but for a slash",
            claimed(with("iss", json!(format!("{ISSUER}/")))),
            R::Issuer,
        ),
        (
            "no issuer",
            claimed(with("iss", Value::Null)),
            R::Malformed("iss"),
        ),
        (
            "wrong audience",
            claimed(with("aud", json!("https://other.example"))),
            R::Audience,
        ),
        (
            "wrong audiences",
            claimed(with("aud", json!([7, "https://other.example"]))),
            R::Audience,
        ),
        (
            "no audience",
            claimed(with("aud", Value::Null)),
            R::Malformed("aud"),
        ),
        (
            "sub present",
            claimed(with("sub", json!("cart"))),
            R::NotAllowed("sub"),
        ),
        (
            "exp present",
            claimed(with("exp", json!(seconds() + 60))),
            R::NotAllowed("exp"),
        ),
        (
            "no iat",
            claimed(with("iat", Value::Null)),
            R::Malformed("iat"),
        ),
        (
            "iat a text",
            claimed(with("iat", json!("now"))),
            R::Malformed("iat"),
        ),
        (
            "from the future",
            claimed(with("iat", json!(seconds() + 120))),
            R::FromTheFuture,
        ),
        (
            "too old",
            claimed(with("iat", json!(seconds() - 8 * 86_400))),
            R::TooOld,
        ),
        (
            "no jti",
            claimed(with("jti", Value::Null)),
            R::Malformed("jti"),
        ),
        (
            "jti empty",
            claimed(with("jti", json!(""))),
            R::Malformed("jti"),
        ),
        (
            "jti endless",
            claimed(with("jti", json!("x".repeat(513)))),
            R::Malformed("jti"),
        ),
        (
            "no sub_id",
            claimed(with("sub_id", Value::Null)),
            R::Malformed("sub_id"),
        ),
        (
            "sub_id a text",
            claimed(with("sub_id", json!(CART))),
            R::Malformed("sub_id"),
        ),
        (
            "sub_id without format",
            claimed(with("sub_id", json!({"uri": CART}))),
            R::Subject,
        ),
        (
            "another trust domain",
            claimed(with(
                "sub_id",
                json!({"format": "uri", "uri": "spiffe://other.example/x"}),
            )),
            R::TrustDomain,
        ),
        (
            "no events",
            claimed(with("events", Value::Null)),
            R::Malformed("events"),
        ),
        (
            "no event",
            claimed(with("events", json!({}))),
            R::NotOneEvent,
        ),
        ("two events", claimed(with("events", two)), R::NotOneEvent),
        (
            "event no object",
            claimed(with("events", json!({REVOKED: true}))),
            R::Malformed("events"),
        ),
        (
            "event malformed",
            claimed(with("events", json!({RISK: {"current_level": "SOME"}}))),
            R::Event("current_level"),
        ),
        ("a claim twice", twice, R::Claims),
        ("claims no JSON", key.raw(&good.to_string(), "{"), R::Claims),
        ("claims a list", key.raw(&good.to_string(), "[]"), R::Claims),
        ("header a list", format!("{}.e30.AA", b64("[]")), R::Header),
        ("header no base64", "$$.e30.AA".to_owned(), R::NotCompact),
        ("padding", format!("{message}.{signature}="), R::NotCompact),
        ("two parts", message.to_owned(), R::NotCompact),
        ("four parts", format!("{valid}.AA"), R::NotCompact),
        ("a blank behind it", format!("{valid}\n"), R::NotCompact),
        ("nothing", String::new(), R::NotCompact),
        (
            "oversized",
            claimed(with("pad", json!("x".repeat(64 << 10)))),
            R::TooLarge,
        ),
    ];
    let mut wrong = Vec::new();
    for (case, token, refusal) in table {
        match receiver.receive(&token).await {
            Err(told) if told == refusal => {}
            other => wrong.push((case, other)),
        }
    }
    assert_eq!(wrong, []);
    let binary = receiver
        .transmitter
        .receive(&[0xff, b'.', b'.'], None)
        .await;
    assert_eq!(binary, Err(R::NotCompact));
    assert_eq!(receiver.effects.all(), Vec::<String>::new());
    // And the token that all of these are made from is good.
    assert_eq!(receiver.receive(&valid).await, Ok(Verdict::Effect));
    assert_eq!(receiver.effects.all(), [format!("revoke {CART}")]);
}

fn receiver_key(key: &Signer) -> Vec<u8> {
    match key {
        Signer::Ec(key, _) => key.public_key().as_ref().to_vec(),
        _ => unreachable!("an EC key"),
    }
}

#[tokio::test]
async fn every_algorithm_verifies_its_own_signatures_and_no_other() {
    let rsa = || Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let (rsa, p384) = (rsa(), Signer::Ec(p384, "P-384"));
    let (p256, ed) = (
        Signer::p256(),
        Signer::Ed(Ed25519KeyPair::generate().unwrap()),
    );
    let mut rs_only = rsa.jwk("rs");
    rs_only["alg"] = json!("RS256");
    let mut encrypting = p256.jwk("enc");
    encrypting["use"] = json!("enc");
    let secret = json!({"kty": "oct", "kid": "oct", "k": "AAAA"});
    let keys = key_set(&[
        rsa.jwk("rsa"),
        p256.jwk("p256"),
        p384.jwk("p384"),
        ed.jwk("ed"),
        rs_only,
        encrypting,
        secret,
    ]);
    let folder = folder();
    let receiver = Receiver::start(folder.path(), &keys);
    let signers = [
        (&rsa, "RS256", "rsa"),
        (&rsa, "PS256", "rsa"),
        (&rsa, "RS256", "rs"),
        (&p256, "ES256", "p256"),
        (&p384, "ES384", "p384"),
        (&ed, "EdDSA", "ed"),
    ];
    for (signer, algorithm, kid) in signers {
        let claims = claims(&format!("{algorithm}-{kid}"), REVOKED, json!({}));
        let token = signer.token(&header(algorithm, kid), &claims);
        assert_eq!(
            receiver.receive(&token).await,
            Ok(Verdict::Effect),
            "{algorithm} {kid}"
        );
    }
    let wrong = [
        (&rsa, "PS256", "rs", Refusal::UnknownKey),
        (&p256, "ES256", "enc", Refusal::UnknownKey),
        (&p256, "ES384", "p256", Refusal::UnknownKey),
        (&p256, "ES256", "oct", Refusal::UnknownKey),
        (&rsa, "EdDSA", "ed", Refusal::Signature),
    ];
    for (signer, algorithm, kid, refusal) in wrong {
        let token = signer.token(&header(algorithm, kid), &claims("x", REVOKED, json!({})));
        assert_eq!(
            receiver.receive(&token).await,
            Err(refusal),
            "{algorithm} {kid}"
        );
    }
    // Without a name, a key is meant only where it is the only one.
    let unnamed = |alg: &str| json!({"typ": "application/secevent+jwt", "alg": alg});
    let one = ed.token(&unnamed("EdDSA"), &claims("y", REVOKED, json!({})));
    assert_eq!(receiver.receive(&one).await, Ok(Verdict::Effect));
    let several = rsa.token(&unnamed("RS256"), &claims("z", REVOKED, json!({})));
    assert_eq!(receiver.receive(&several).await, Err(Refusal::UnknownKey));
}

#[tokio::test]
async fn a_rotated_key_is_found_in_the_file_and_the_old_one_no_longer_verifies() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let folder = folder();
    let receiver = Receiver::start(folder.path(), &key_set(&[old.jwk("old")]));
    std::fs::write(folder.path().join("jwks.json"), key_set(&[new.jwk("new")])).unwrap();
    let signed = new.token(&header("ES256", "new"), &claims("a", REVOKED, json!({})));
    assert_eq!(receiver.receive(&signed).await, Ok(Verdict::Effect));
    let signed = old.token(&header("ES256", "old"), &claims("b", REVOKED, json!({})));
    assert_eq!(receiver.receive(&signed).await, Err(Refusal::UnknownKey));
    // A broken file leaves the last good keys.
    std::fs::write(folder.path().join("jwks.json"), "{").unwrap();
    let unknown = new.token(&header("ES256", "x"), &claims("c", REVOKED, json!({})));
    assert_eq!(receiver.receive(&unknown).await, Err(Refusal::UnknownKey));
    let signed = new.token(&header("ES256", "new"), &claims("d", REVOKED, json!({})));
    assert_eq!(receiver.receive(&signed).await, Ok(Verdict::Effect));
}

/// A receiver and its signer, in a folder.
fn one(folder: &Path) -> (Signer, Receiver) {
    let key = Signer::p256();
    let receiver = Receiver::start(folder, &key_set(&[key.jwk("k1")]));
    (key, receiver)
}

fn token(key: &Signer, jti: &str, event: &str, content: Value) -> String {
    key.token(&header("ES256", "k1"), &claims(jti, event, content))
}

#[tokio::test]
async fn a_replayed_token_is_acknowledged_again_and_has_no_second_effect() {
    let folder = folder();
    let (key, receiver) = one(folder.path());
    let revoked = token(&key, "a", REVOKED, json!({}));
    assert_eq!(receiver.receive(&revoked).await, Ok(Verdict::Effect));
    assert_eq!(receiver.receive(&revoked).await, Ok(Verdict::Replayed));
    let same_name = token(&key, "a", RISK, json!({"current_level": "HIGH"}));
    assert_eq!(receiver.receive(&same_name).await, Ok(Verdict::Replayed));
    assert_eq!(receiver.effects.all(), [format!("revoke {CART}")]);
}

#[tokio::test]
async fn an_event_that_is_older_than_the_latest_has_no_effect() {
    let folder = folder();
    let (key, receiver) = one(folder.path());
    let at = |jti: &str, level: &str, ago: u64| {
        let content = json!({"current_level": level, "event_timestamp": seconds() - ago});
        token(&key, jti, RISK, content)
    };
    let (high, low, medium) = (
        at("a", "HIGH", 10),
        at("b", "LOW", 60),
        at("c", "MEDIUM", 5),
    );
    assert_eq!(receiver.receive(&high).await, Ok(Verdict::Effect));
    assert_eq!(receiver.receive(&low).await, Ok(Verdict::Outdated));
    assert_eq!(receiver.receive(&medium).await, Ok(Verdict::Effect));
    // Another kind of event has an order of its own.
    let revoked = token(
        &key,
        "d",
        REVOKED,
        json!({"event_timestamp": seconds() - 600}),
    );
    assert_eq!(receiver.receive(&revoked).await, Ok(Verdict::Effect));
    let told = ["HIGH", "MEDIUM"].map(|level| format!("risk {CART} {level}"));
    assert_eq!(
        receiver.effects.all(),
        [&told[..], &[format!("revoke {CART}")]].concat()
    );
}

#[tokio::test]
async fn of_a_level_and_a_device_the_higher_risk_holds() {
    let folder = folder();
    let (key, receiver) = one(folder.path());
    let device = |status: &str| json!({"previous_status": "compliant", "current_status": status});
    let events = [
        (DEVICE, device("not-compliant"), "HIGH"),
        (RISK, json!({"current_level": "LOW"}), "HIGH"),
        (RISK, json!({"current_level": "MEDIUM"}), "HIGH"),
        (DEVICE, device("compliant"), "MEDIUM"),
    ];
    for (index, (event, content, _)) in events.iter().enumerate() {
        let token = token(&key, &index.to_string(), event, content.clone());
        assert_eq!(
            receiver.receive(&token).await,
            Ok(Verdict::Effect),
            "{index}"
        );
    }
    let expected = events.map(|(_, _, level)| format!("risk {CART} {level}"));
    assert_eq!(receiver.effects.all(), expected);
}

#[tokio::test]
async fn a_credential_that_is_gone_is_revoked_and_a_new_one_changes_nothing() {
    let folder = folder();
    let (key, receiver) = one(folder.path());
    let change = |change: &str, serial: Value| {
        let mut content = json!({"credential_type": "x509", "change_type": change});
        if !serial.is_null() {
            content["x509_serial"] = serial;
        }
        content
    };
    for (jti, content, verdict) in [
        ("a", change("revoke", json!("00:AB:12")), Verdict::Effect),
        ("b", change("create", json!("cd")), Verdict::NoEffect),
        ("c", change("delete", Value::Null), Verdict::Effect),
    ] {
        let token = token(&key, jti, CREDENTIAL, content);
        assert_eq!(receiver.receive(&token).await, Ok(verdict), "{jti}");
    }
    assert_eq!(
        receiver.effects.all(),
        ["serial ab12".to_owned(), format!("revoke {CART}")]
    );
    // Nobody known: not even the serial number is taken on trust.
    let mut strangers = claims("d", CREDENTIAL, change("revoke", json!("ff")));
    strangers["sub_id"] = json!({"format": "email", "email": "a@shop.example"});
    let strangers = key.token(&header("ES256", "k1"), &strangers);
    assert_eq!(receiver.receive(&strangers).await, Ok(Verdict::NoEffect));
    assert_eq!(receiver.effects.all().len(), 2);
}

#[tokio::test]
async fn what_is_only_told_is_taken_and_has_no_effect() {
    let folder = folder();
    let (key, receiver) = one(folder.path());
    let ssf = "https://schemas.openid.net/secevent/ssf/event-type/";
    let caep = "https://schemas.openid.net/secevent/caep/event-type/";
    for (jti, event, content) in [
        ("a", format!("{ssf}verification"), json!({"state": "xyz"})),
        (
            "b",
            format!("{ssf}stream-updated"),
            json!({"status": "paused"}),
        ),
        (
            "c",
            format!("{caep}assurance-level-change"),
            json!({"namespace": "NIST-AAL", "current_level": "nist-aal1"}),
        ),
        (
            "d",
            "https://example.com/event/unknown".to_owned(),
            json!({}),
        ),
    ] {
        let token = token(&key, jti, &event, content);
        assert_eq!(
            receiver.receive(&token).await,
            Ok(Verdict::NoEffect),
            "{event}"
        );
    }
    assert_eq!(receiver.effects.all(), Vec::<String>::new());
    assert_eq!(
        receiver.transmitter.status().stream.as_deref(),
        Some("paused")
    );
}

#[tokio::test]
async fn what_was_taken_is_remembered_after_a_crash_and_half_a_line_is_not() {
    let folder = folder();
    let (key, receiver) = one(folder.path());
    let content = |ago: u64| json!({"current_level": "HIGH", "event_timestamp": seconds() - ago});
    let taken = token(&key, "a", RISK, content(10));
    assert_eq!(receiver.receive(&taken).await, Ok(Verdict::Effect));
    let path = folder.path().join("ssf.jsonl");
    let kept = std::fs::read_to_string(&path).unwrap();
    let half = &kept.replace("\"a\"", "\"b\"")[..kept.len() / 2];
    std::fs::write(&path, format!("{kept}{half}")).unwrap();

    let after = Receiver::start(folder.path(), &key_set(&[key.jwk("k1")]));
    assert_eq!(after.receive(&taken).await, Ok(Verdict::Replayed));
    let older = token(&key, "c", RISK, content(60));
    assert_eq!(after.receive(&older).await, Ok(Verdict::Outdated));
    let half_written = token(&key, "b", RISK, content(5));
    assert_eq!(after.receive(&half_written).await, Ok(Verdict::Effect));

    // A line that is wrong before others is no crash.
    std::fs::write(&path, format!("x\n{kept}")).unwrap();
    let refused = Journal::open(folder.path(), 0).unwrap_err().to_string();
    assert!(
        refused.starts_with("line 1 of") && refused.contains("move the file away"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_event_that_cannot_be_kept_is_not_acknowledged_and_may_be_sent_again() {
    let folder = folder();
    let (key, receiver) = one(folder.path());
    let revoked = token(&key, "a", REVOKED, json!({}));
    *receiver.effects.broken.lock().unwrap() = true;
    let refused = receiver.receive(&revoked).await.unwrap_err();
    assert_eq!(refused.code(), None);
    assert!(
        !std::fs::read_to_string(folder.path().join("ssf.jsonl"))
            .unwrap()
            .contains("\"a\"")
    );
    *receiver.effects.broken.lock().unwrap() = false;

    // The journal itself: a folder in place of the file.
    let path = folder.path().join("ssf.jsonl");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(receiver.receive(&revoked).await.unwrap_err().code(), None);
    std::fs::remove_dir(&path).unwrap();
    assert_eq!(receiver.receive(&revoked).await, Ok(Verdict::Effect));
    assert_eq!(receiver.receive(&revoked).await, Ok(Verdict::Replayed));
}

/// What a token says, by the rules that hold without a receiver.
fn read(token: &[u8], keys: &KeySet, config: &TransmitterConfig) -> Result<Set, Refusal> {
    let token = Unverified::read(token, &config.algorithms)?;
    token.verify(keys)?.check(config, SystemTime::now())
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_token(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (key, config) = (Signer::p256(), config(Path::new("/")).signals.ssf[0].clone());
        let keys = KeySet::parse(key_set(&[key.jwk("k1")]).as_bytes()).unwrap();
        prop_assert!(read(&bytes, &keys, &config).is_err());
        let _ = KeySet::parse(&bytes);
    }

    #[test]
    fn rejects_a_token_of_which_one_byte_is_another(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (key, config) = (Signer::p256(), config(Path::new("/")).signals.ssf[0].clone());
        let keys = KeySet::parse(key_set(&[key.jwk("k1")]).as_bytes()).unwrap();
        let mut token = token(&key, "a", REVOKED, json!({})).into_bytes();
        prop_assert!(read(&token, &keys, &config).is_ok());
        let place = at.index(token.len());
        prop_assume!(token[place] != byte);
        token[place] = byte;
        prop_assert!(read(&token, &keys, &config).is_err());
    }
}
