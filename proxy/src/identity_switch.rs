//! The identity that everything uses, from whichever source the configuration names at the time.
//!
//! Readers keep reading from one place while sources are replaced beneath it. A source that has
//! nothing yet takes over when it has: until then the last one stays and is kept up to date.

use std::pin::Pin;

use tokio::sync::mpsc;
use wayleave_certs::{IdentityPublisher, IdentityReader};

use crate::identity::{Lost, OpenIdentity};

type Keeping = Pin<Box<dyn Future<Output = Lost> + Send>>;

/// A source that is kept up to date.
struct Kept {
    reader: IdentityReader,
    keeping: Keeping,
}

/// Publishes what the source in force has.
pub(crate) struct IdentityKeeper {
    publisher: IdentityPublisher,
    current: Kept,
    /// The source that takes over when it has an SVID.
    next: Option<Kept>,
    others: mpsc::Receiver<OpenIdentity>,
}

/// Replaces the source of the identity.
#[derive(Debug, Clone)]
pub(crate) struct IdentitySwitch(mpsc::Sender<OpenIdentity>);

impl IdentitySwitch {
    /// Takes the identity from another source from now on, or from when it has one.
    pub(crate) async fn to(&self, source: OpenIdentity) {
        // It is received for as long as the identity is kept; without that the process ends.
        let _ = self.0.send(source).await;
    }
}

impl Kept {
    fn new(source: OpenIdentity) -> Self {
        Self {
            reader: source.reader(),
            keeping: Box::pin(source.keep()),
        }
    }
}

impl IdentityKeeper {
    /// Publishes what `source` has, at once.
    pub(crate) fn new(source: OpenIdentity) -> (Self, IdentitySwitch) {
        let (switch, others) = mpsc::channel(1);
        let (publisher, _) = IdentityPublisher::new();
        let mut keeper = Self {
            publisher,
            current: Kept::new(source),
            next: None,
            others,
        };
        keeper.publisher.follow(keeper.current.reader.clone());
        keeper.publish();
        (keeper, IdentitySwitch(switch))
    }

    /// What is published.
    pub(crate) fn reader(&self) -> IdentityReader {
        self.publisher.reader()
    }

    /// Keeps the identity up to date for as long as it is polled, and says why it cannot any
    /// more.
    pub(crate) async fn keep(mut self) -> Lost {
        loop {
            tokio::select! {
                lost = &mut self.current.keeping => return lost,
                () = self.current.reader.changed() => self.publish(),
                Some(other) = self.others.recv() => {
                    self.next = Some(Kept::new(other));
                    self.take_over();
                }
                lost = changed(&mut self.next) => match lost {
                    None => self.take_over(),
                    Some(lost) => self.give_up(&lost),
                },
            }
        }
    }

    /// Puts the next source in force, if it has an identity.
    fn take_over(&mut self) {
        let Some(next) = self.next.take_if(|next| next.reader.current().is_some()) else {
            tracing::warn!("the new source of the identity has no SVID yet; the last one stays");
            return;
        };
        self.current = next;
        self.publisher.follow(self.current.reader.clone());
        self.publish();
    }

    fn give_up(&mut self, lost: &Lost) {
        let error = lost as &dyn std::error::Error;
        tracing::error!(
            error,
            "the new source of the identity is given up; the last one stays"
        );
        self.publisher.failed(lost);
        self.next = None;
    }

    fn publish(&mut self) {
        match self.current.reader.current() {
            Some(identity) => {
                let svid = identity.svid().clone();
                self.publisher.publish(svid, identity.bundles().clone());
            }
            None => self.publisher.withdraw(),
        }
    }
}

/// Completes when the source has something else to publish, or cannot go on, with why.
async fn changed(next: &mut Option<Kept>) -> Option<Lost> {
    match next {
        None => std::future::pending().await,
        Some(next) => tokio::select! {
            lost = &mut next.keeping => Some(lost),
            () = next.reader.changed() => None,
        },
    }
}
