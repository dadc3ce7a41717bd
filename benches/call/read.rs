//! Reading a request.

use std::hint::black_box;

use http::header::{COOKIE, HeaderValue};
use http::request::Parts;
use wayleave_benches::micro::{Micro, Promise, Work};
use wayleave_proxy::bench::{self, Reading};

use crate::requests::{Example, examples};

type Answer = Result<Reading, &'static str>;

struct Read {
    head: Parts,
    heads: Vec<Parts>,
    answers: Vec<Answer>,
}

impl Work for Read {
    fn prepare(&mut self, count: usize) {
        self.heads
            .extend(std::iter::repeat_n(&self.head, count).cloned());
        self.answers.reserve(count);
    }

    fn work(&mut self) {
        let answers = self
            .heads
            .iter_mut()
            .map(|head| bench::read(black_box(head)));
        self.answers.extend(answers);
    }

    fn settle(&mut self) {
        self.heads.clear();
        self.answers.clear();
    }
}

/// Measures every example.
pub(crate) fn measure(micro: &mut Micro) {
    for example in examples() {
        let answer = bench::read(&mut example.head.clone());
        assert_eq!(path(&answer), example.expected, "{}", example.name);
        micro.measure(
            example.name,
            promise(&example, &answer),
            &mut Read {
                head: example.head,
                heads: Vec::new(),
                answers: Vec::new(),
            },
        );
    }
}

fn path(answer: &Answer) -> Result<&str, &'static str> {
    answer.as_ref().map(Reading::path).map_err(|code| *code)
}

/// Nothing but one copy of what was asked for, which outlives the request; and the cookies, where
/// HTTP/2 has split them, in one field.
fn promise(example: &Example, answer: &Answer) -> Promise {
    let Ok(call) = answer else {
        return Promise::Nothing;
    };
    let query = example.head.uri.query().map_or(0, str::len);
    let cookies: Vec<_> = example
        .head
        .headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let joined = match cookies.len() {
        0 | 1 => 0,
        _ => cookies.join(&b"; "[..]).len(),
    };
    Promise::Bytes(call.host().len() + call.path().len() + query + joined)
}
