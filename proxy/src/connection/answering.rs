//! A request that is being answered: mostly a call that waits for the upstream.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use ::http::{Response, StatusCode, Version};

use super::Connection;
use crate::denial::{Afterwards, Denial};
use crate::forward::ResponseBody;
use crate::protocol::Shape;

pin_project_lite::pin_project! {
    /// The answer to one request, whichever way it comes about.
    #[project = Way]
    pub(super) enum Answering<F> {
        Now {
            answer: Option<Response<ResponseBody>>,
        },
        Later {
            answer: Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>,
        },
        Forwarded {
            #[pin]
            answer: F,
            connection: Arc<Connection>,
            shape: Shape,
            version: Version,
            // What follows where the upstream does not answer.
            left: Afterwards,
        },
    }
}

pin_project_lite::pin_project! {
    /// A call that begins when its task first runs.
    ///
    /// SECURITY: an HTTP/2 stream that breaks the protocol in the frames behind its head has been
    /// reset by then, and is not forwarded.
    #[project = Stage]
    pub(super) enum WhenRun<B, F> {
        Before {
            begin: Option<B>,
        },
        Begun {
            #[pin]
            answer: F,
        },
    }
}

impl<B, F> WhenRun<B, F> {
    pub(super) fn new(begin: B) -> Self {
        Self::Before { begin: Some(begin) }
    }
}

impl<B, F> Future for WhenRun<B, F>
where
    B: FnOnce() -> F,
    F: Future,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if let Stage::Before { begin } = self.as_mut().project()
            && let Some(begin) = begin.take()
        {
            let answer = begin();
            self.set(Self::Begun { answer });
        }
        match self.project() {
            Stage::Begun { answer } => answer.poll(cx),
            Stage::Before { .. } => Poll::Pending,
        }
    }
}

impl<F> Answering<F> {
    /// An answer that is there.
    pub(super) fn now(answer: Response<ResponseBody>) -> Self {
        Self::Now {
            answer: Some(answer),
        }
    }

    /// An answer that takes something unusual.
    pub(super) fn later(
        answer: impl Future<Output = Response<ResponseBody>> + Send + 'static,
    ) -> Self {
        Self::Later {
            answer: Box::pin(answer),
        }
    }
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Denial>>,
{
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Way::Now { answer } => match answer.take() {
                Some(answer) => Poll::Ready(Ok(answer)),
                None => Poll::Pending,
            },
            Way::Later { answer } => answer.as_mut().poll(cx).map(Ok),
            Way::Forwarded {
                answer,
                connection,
                shape,
                version,
                left,
            } => {
                let mut answer = match ready!(answer.poll(cx)) {
                    Ok(answer) => answer,
                    Err(denial) => {
                        let refusal = connection.refusal(denial, *shape, *version, *left);
                        return Poll::Ready(Ok(refusal));
                    }
                };
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    connection.upgraded.store(true, Ordering::Relaxed);
                }
                connection.last_of_all(*version, &mut answer);
                Poll::Ready(Ok(answer))
            }
        }
    }
}
