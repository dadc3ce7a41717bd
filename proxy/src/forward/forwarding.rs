//! The future of a forwarded call: small while it waits on a connection that was there, and boxed
//! where it takes more than that.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};

use super::error::ForwardError;
use super::outgoing::{Outgoing, Special};
use super::pool::{Answer, Sent, Straight, Tried};
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::times::Patience;
use crate::denial::Denial;

type Told = Result<Response<ResponseBody>, Denial>;

pin_project_lite::pin_project! {
    /// A call that waits for its answer.
    #[project = Way]
    pub(super) enum Forwarding<S> {
        Short {
            #[pin]
            straight: Straight<S>,
            // INVARIANT: `Some` as long as the call goes the short way.
            call: Option<Outgoing>,
            patience: Patience,
            tried: Tried,
        },
        Long {
            rest: Pin<Box<dyn Future<Output = Told> + Send>>,
        },
    }
}

impl<S> Forwarding<S> {
    /// A call that ended before it began.
    pub(super) fn over(denial: Denial) -> Self {
        Self::long(std::future::ready(Err(denial)))
    }

    /// A call that goes the long way.
    pub(super) fn long(rest: impl Future<Output = Told> + Send + 'static) -> Self {
        Self::Long {
            rest: Box::pin(rest),
        }
    }
}

/// A call with nothing special, on the shortest way that there is for it now.
#[inline]
pub(super) fn shortest(
    call: Outgoing,
    request: Request<RequestBody>,
) -> Forwarding<impl Future<Output = Sent> + Send + use<>> {
    let mut tried = Tried::default();
    // The moment in which the call began will do: it has waited for nothing since.
    let now = call.lease.began();
    match call.pool.at_hand(&mut tried, now) {
        Some(connection) => Forwarding::Short {
            straight: connection.send(request, now),
            patience: call.patience(now.into()),
            call: Some(call),
            tried,
        },
        None => Forwarding::long(call.carry(request, Special::default(), tried, None)),
    }
}

impl<S: Future<Output = Sent>> Future for Forwarding<S> {
    type Output = Told;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Told> {
        if let Way::Short {
            straight,
            call,
            patience,
            tried,
        } = self.as_mut().project()
        {
            let answer = ready!(poll_short(straight, call, patience, tried, cx));
            let Some(call) = call.take() else {
                return Poll::Pending;
            };
            let error = match answer {
                Ok(Ok(answer)) => return Poll::Ready(call.plainly_answered(answer)),
                Ok(Err(request)) => {
                    let (tried, patience) = (std::mem::take(tried), patience.clone());
                    let rest = call.carry(request, Special::default(), tried, Some(patience));
                    self.set(Self::long(rest));
                    return self.poll(cx);
                }
                Err(error) => error,
            };
            return Poll::Ready(Err(call.failed(&error)));
        }
        match self.project() {
            Way::Long { rest } => rest.as_mut().poll(cx),
            Way::Short { .. } => Poll::Pending,
        }
    }
}

/// The answer, or the request where it is to be sent anew, or why neither.
fn poll_short<S: Future<Output = Sent>>(
    mut straight: Pin<&mut Straight<S>>,
    call: &mut Option<Outgoing>,
    patience: &mut Patience,
    tried: &Tried,
    cx: &mut Context<'_>,
) -> Poll<Result<Result<Answer, Request<RequestBody>>, ForwardError>> {
    let Some(call) = call else {
        return Poll::Pending;
    };
    if let Poll::Ready(sent) = straight.as_mut().poll_answer(cx) {
        return Poll::Ready(match sent {
            Ok(answer) => Ok(Ok(answer)),
            Err(unanswered) => unanswered.unsent.map(Err).ok_or(unanswered.error),
        });
    }
    if let Poll::Ready(error) = straight.poll_late(patience, &call.progress, cx) {
        call.pool.given_up(tried, &error);
        return Poll::Ready(Err(error));
    }
    let ended = call.lease.poll_ended(cx);
    ended.map(|_| Err(ForwardError::LeaseEnded))
}
