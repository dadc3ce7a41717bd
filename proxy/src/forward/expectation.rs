//! `Expect: 100-continue` (RFC 9110 section 10.1.1): a caller that waits to be told before it sends
//! its body waits for the upstream, not for us. An upstream that answers without asking for the
//! body gets none: the caller is free at once, and the upstream's connection once its answer is
//! through.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Body;
use tokio::sync::{Notify, oneshot};

use super::request_body::RequestBody;
use crate::config::UpstreamProtocol;

/// How long an upstream that says nothing is waited for: it may not know the expectation.
const PATIENCE: Duration = Duration::from_secs(1);

/// The caller's wait, as the side sees it that waits for the answer.
pub(super) struct Waiting {
    /// Dropped once there is an answer, or none is waited for any more.
    answer: oneshot::Sender<()>,
    over: Over,
}

/// Dropped when the answer is through.
#[derive(Debug)]
pub(super) struct Over {
    _over: oneshot::Sender<()>,
}

impl Waiting {
    /// The answer is there: a body that was not asked for by now is not wanted.
    pub(super) fn answered(self) -> Over {
        drop(self.answer);
        self.over
    }
}

/// What holds a body back.
pub(super) struct Hold {
    until: Pin<Box<dyn Future<Output = Verdict> + Send>>,
    over: Option<oneshot::Receiver<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The body may be sent.
    Send,
    /// It is not wanted.
    Refused,
    /// It is not wanted, and the answer is through.
    Over,
}

impl Hold {
    /// What came of the wait. After a refusal, it goes on until the answer is through.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        let verdict = std::task::ready!(self.until.as_mut().poll(cx));
        if verdict == Verdict::Refused
            && let Some(over) = self.over.take()
        {
            self.until = Box::pin(async move {
                let _ = over.await;
                Verdict::Over
            });
        }
        Poll::Ready(verdict)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// Has the upstream asked, and holds the body back until it says 100. Only HTTP/1.1 can tell us:
/// another upstream gets the body at once.
pub(super) fn pass_on(
    request: &mut Request<RequestBody>,
    upstream: UpstreamProtocol,
) -> Option<Waiting> {
    if upstream != UpstreamProtocol::Http1 || request.body().is_end_stream() {
        return None;
    }
    let expectation = HeaderValue::from_static("100-continue");
    request.headers_mut().insert(EXPECT, expectation);
    let said = Arc::new(Notify::new());
    let heard = Arc::clone(&said);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            said.notify_one();
        }
    });
    let (answer, answered) = oneshot::channel();
    let (over, is_over) = oneshot::channel();
    request.body_mut().hold(Hold {
        until: Box::pin(async move {
            tokio::select! {
                () = heard.notified() => Verdict::Send,
                _ = answered => Verdict::Refused,
                () = tokio::time::sleep(PATIENCE) => Verdict::Send,
            }
        }),
        over: Some(is_over),
    });
    let over = Over { _over: over };
    Some(Waiting { answer, over })
}
