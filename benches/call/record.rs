//! The record of a call, the worker's part and the writer's.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use serde_json::Value;
use wayleave_authz::{Decision, Engine, RecordedHeaders};
use wayleave_benches::micro::{Micro, Promise, Work};
use wayleave_benches::rules;
use wayleave_proxy::bench::{self, Outcome, Records};

use crate::caller;
use crate::requests::{self, Example};

/// A call that ended.
#[derive(Clone)]
struct Ended {
    outcome: Outcome,
    status: StatusCode,
}

/// The worker's part.
struct Record {
    records: Records,
    example: Ended,
    ended: Vec<Ended>,
}

impl Work for Record {
    fn prepare(&mut self, count: usize) {
        let ended = std::iter::repeat_n(&self.example, count);
        self.ended.extend(ended.cloned());
    }

    fn work(&mut self) {
        for Ended { outcome, status } in self.ended.drain(..) {
            self.records.record(outcome, status);
        }
    }

    fn settle(&mut self) {
        self.records.write();
    }
}

/// The writer's part.
struct Written {
    records: Records,
    example: Ended,
    memory: Memory,
}

impl Work for Written {
    fn prepare(&mut self, count: usize) {
        for Ended { outcome, status } in std::iter::repeat_n(&self.example, count).cloned() {
            self.records.record(outcome, status);
        }
    }

    fn work(&mut self) {
        self.records.write();
    }

    fn settle(&mut self) {
        self.memory.lock().clear();
    }
}

/// Where lines are written to.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Measures both parts of every example.
pub(crate) fn measure(micro: &mut Micro) {
    let peer = caller::proved().expect("a caller");
    let records = |memory: &Memory| {
        let source = ([10, 0, 0, 7], 40_312).into();
        Records::of(peer.clone(), source, Box::new(memory.clone()))
    };
    for (name, example) in examples() {
        let work = &mut Record {
            records: records(&Memory::default()),
            example,
            ended: Vec::new(),
        };
        micro.measure(&format!("record/{name}"), Promise::Nothing, work);
    }
    for (name, example) in examples() {
        let memory = Memory::default();
        let mut work = Written {
            records: records(&memory),
            example,
            memory,
        };
        check_line(&mut work);
        micro.measure(&format!("write/{name}"), Promise::Nothing, &mut work);
    }
}

/// That what is measured is a whole record of the example.
fn check_line(written: &mut Written) {
    written.prepare(1);
    written.work();
    let line = std::mem::take(&mut *written.memory.lock());
    let line: Value = serde_json::from_slice(&line).expect("a line of JSON");
    assert_eq!(line["principal"], caller::CALLER);
    assert_eq!(line["status"], written.example.status.as_u16());
    match &written.example.outcome {
        Outcome::Decided { call, decision, .. } => {
            assert_eq!(line["effect"], decision.effect().as_str());
            assert_eq!(line["resource"]["path"], call.path());
        }
        Outcome::Refused {
            reason_code,
            target,
        } => {
            assert_eq!(line["reason_code"], *reason_code);
            assert_eq!(line["resource"]["refused_target"], *target);
        }
    }
}

fn examples() -> [(&'static str, Ended); 4] {
    let engine = rules::engine(100);
    let none = RecordedHeaders::default();
    let read = || {
        let mut read = RecordedHeaders::default();
        let values = &mut read.values;
        let brands = "\"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"";
        values.insert("sec-ch-ua".to_owned(), vec![brands.to_owned()]);
        values.insert(
            "accept-language".to_owned(),
            vec!["de-DE,de;q=0.9".to_owned()],
        );
        read.withheld.push("authorization".to_owned());
        read
    };
    [
        (
            "allow",
            ended(
                decision(&engine, "policy_allow"),
                none.clone(),
                StatusCode::OK,
            ),
        ),
        (
            "allow, three headers read",
            ended(decision(&engine, "policy_allow"), read(), StatusCode::OK),
        ),
        (
            "deny",
            ended(
                decision(&engine, "policy_deny"),
                none,
                StatusCode::FORBIDDEN,
            ),
        ),
        ("refused", refused()),
    ]
}

/// The first decision for this reason.
fn decision(engine: &Engine, reason_code: &str) -> Decision {
    let calls = rules::calls();
    let mut decisions = calls.iter().map(|call| engine.decide(&call.facts()));
    let found = decisions.find(|decision| decision.reason().as_str() == reason_code);
    found.expect("a decision for this reason")
}

fn ended(decision: Decision, headers: RecordedHeaders, status: StatusCode) -> Ended {
    let call = bench::read(&mut requests::browser_call().head).expect("a request in one reading");
    let outcome = Outcome::Decided {
        call,
        decision,
        headers,
    };
    Ended { outcome, status }
}

/// A target that a line must not be broken by.
fn refused() -> Ended {
    let Example { head, expected, .. } = requests::quoted();
    let outcome = Outcome::Refused {
        reason_code: expected.expect_err("a refusal"),
        target: head.uri.to_string(),
    };
    let status = StatusCode::BAD_REQUEST;
    Ended { outcome, status }
}
