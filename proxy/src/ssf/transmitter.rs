//! One transmitter: from the bytes that it sends to an effect, or to the reason why there is
//! none.

use std::sync::Arc;
use std::time::SystemTime;

use wayleave_authz::signals::RiskLevel;

use super::event::{Event, EventType, happened, reason_admin};
use super::health::{Health, TransmitterStatus};
use super::intake::Intake;
use super::jwks::Keys;
use super::ledger::{Entry, Outcome, Target, Verdict};
use super::refusal::Refusal;
use super::set::{Set, Unverified, whole_millis};
use super::subject::Subjects;
use crate::config::{OnNoncompliant, TransmitterConfig};

/// A transmitter, ready to be listened to.
#[derive(Debug)]
pub(super) struct Transmitter {
    pub(super) config: TransmitterConfig,
    pub(super) keys: Keys,
    pub(super) health: Health,
    subjects: Subjects,
    intake: Intake,
}

impl Transmitter {
    pub(super) fn new(
        config: TransmitterConfig,
        keys: Keys,
        health: Health,
        intake: Intake,
    ) -> Self {
        let subjects = Subjects::new(&config.subjects, config.trust_domains.as_deref());
        Self {
            config,
            keys,
            health,
            subjects,
            intake,
        }
    }

    /// Takes a token, that of `jti` where one was announced; completes when it would outlive a
    /// crash.
    ///
    /// # Errors
    /// Why it is refused; it has had no effect then. Or why it is to be sent again.
    pub(super) async fn receive(
        &self,
        token: &[u8],
        jti: Option<&str>,
    ) -> Result<Verdict, Refusal> {
        let received = self.verify(token, jti).await;
        let result = match received {
            Ok(set) => self.take(set).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = result {
            self.refused(refusal);
        }
        result
    }

    /// Notes a refusal.
    pub(super) fn refused(&self, refusal: Refusal) {
        self.health.refused(refusal);
        let (transmitter, err) = (&*self.config.name, refusal.label());
        tracing::warn!(transmitter, err, "security event refused: {refusal}");
    }

    async fn verify(&self, token: &[u8], jti: Option<&str>) -> Result<Set, Refusal> {
        let token = Unverified::read(token, &self.config.algorithms)?;
        let keys = self.keys.for_token(&token, &self.health).await?;
        let set = token
            .verify(&keys)?
            .check(&self.config, SystemTime::now())?;
        match jti {
            Some(announced) if announced != set.jti => Err(Refusal::Malformed("jti")),
            _ => Ok(set),
        }
    }

    async fn take(&self, set: Set) -> Result<Verdict, Refusal> {
        let (kind, entry) = self.entry(&set)?;
        let about = entry.effects.len();
        let verdict = self.intake.take(entry).await;
        let verdict = verdict.map_err(|_| Refusal::Unavailable("the event cannot be kept now"))?;
        self.health.taken(kind, verdict);
        tracing::info!(
            transmitter = &*self.config.name,
            jti = set.jti,
            event = kind.as_str(),
            result = verdict.as_str(),
            about,
            "security event taken"
        );
        Ok(verdict)
    }

    /// What a token does, in the form that is kept.
    fn entry(&self, set: &Set) -> Result<(EventType, Entry), Refusal> {
        let kind = EventType::of(&set.event_type);
        let event = Event::read(kind, &set.event)?;
        let entry = Entry {
            transmitter: Arc::clone(&self.config.name),
            jti: set.jti.clone(),
            forget_after: set.issued.saturating_add(whole_millis(self.config.max_age)),
            event: kind,
            happened: happened(&set.event, set.issued)?,
            reason: reason_admin(&set.event),
            effects: self.effects(kind, event, set)?,
        };
        Ok((kind, entry))
    }

    fn effects(
        &self,
        kind: EventType,
        event: Event,
        set: &Set,
    ) -> Result<Vec<(Target, Outcome)>, Refusal> {
        let about_a_stream = matches!(kind, EventType::Verification | EventType::StreamUpdated);
        if about_a_stream || kind == EventType::Other {
            self.tell_of_stream(&event, set);
            return Ok(Vec::new());
        }
        // Of whom it may speak is asked even where nothing comes of it.
        let principals = self.subjects.principals(&set.subject)?;
        let told = match event {
            Event::SessionRevoked => Some(Outcome::Revoked),
            // SECURITY: which certificate it is was not told, so it may be any.
            Event::CertificateRevoked { .. } => Some(Outcome::Revoked),
            Event::Risk(level) => Some(Outcome::Risk(level)),
            Event::Compliance { compliant } => self.compliance(compliant),
            Event::Stream(_) | Event::Told => None,
        };
        let Some(outcome) = told else {
            return Ok(Vec::new());
        };
        if principals.is_empty() {
            tracing::warn!(
                transmitter = &*self.config.name,
                jti = set.jti,
                event = kind.as_str(),
                "the subject of a security event is nobody known here; map it in `subjects`"
            );
            return Ok(Vec::new());
        }
        if let Event::CertificateRevoked {
            serial: Some(serial),
        } = event
        {
            return Ok(vec![(Target::Serial(serial), outcome)]);
        }
        let targets = principals.into_iter().map(Target::Principal);
        Ok(targets.map(|target| (target, outcome)).collect())
    }

    fn compliance(&self, compliant: bool) -> Option<Outcome> {
        match (self.config.on_noncompliant, compliant) {
            (OnNoncompliant::HighRisk, false) => Some(Outcome::Risk(RiskLevel::High)),
            (OnNoncompliant::HighRisk, true) => Some(Outcome::Risk(RiskLevel::Low)),
            (OnNoncompliant::Revoke, false) => Some(Outcome::Revoked),
            // Only an operator lifts a revocation.
            (OnNoncompliant::Revoke, true) | (OnNoncompliant::Ignore, _) => None,
        }
    }

    fn tell_of_stream(&self, event: &Event, set: &Set) {
        let transmitter = &*self.config.name;
        match event {
            Event::Stream(status) => {
                self.health.stream(*status);
                tracing::warn!(
                    transmitter,
                    status = status.as_str(),
                    "the event stream changed"
                );
            }
            _ => {
                let state = set.event.get("state").and_then(serde_json::Value::as_str);
                tracing::info!(
                    transmitter,
                    event = set.event_type,
                    state,
                    "told by a transmitter"
                );
            }
        }
    }

    /// How it is doing.
    pub(super) fn status(&self) -> TransmitterStatus {
        let push = self.config.push.as_ref();
        let mut status = TransmitterStatus {
            name: self.config.name.to_string(),
            issuer: self.config.issuer.clone(),
            push: push.map(|push| format!("{}{}", push.listen, push.path)),
            poll: self.config.poll.as_ref().map(|poll| poll.url.to_string()),
            stream: None,
            keys: self.keys.count(),
            last_event: None,
            last_refusal: None,
            failures: Vec::new(),
        };
        self.health.fill(&mut status);
        status
    }
}
