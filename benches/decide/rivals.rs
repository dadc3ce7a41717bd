//! The same question put to other engines, each in the way its documentation shows, with what
//! it needs for one call built for that call.

use wayleave_benches::rules::{self, Call, Rule};
use wayleave_benches::stock::Stock;

/// An engine that says whether a call is allowed.
pub(crate) trait Rival {
    fn allows(&mut self, call: &Call) -> bool;
}

impl Rival for Stock {
    fn allows(&mut self, call: &Call) -> bool {
        Stock::allows(self, call)
    }
}

/// The Rego interpreter `regorus`.
pub(crate) struct Rego(regorus::Engine);

impl Rego {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut engine = regorus::Engine::new();
        engine
            .add_policy("rules.rego".to_owned(), rules::rego(rules))
            .expect("rego rules");
        Self(engine)
    }
}

impl Rival for Rego {
    fn allows(&mut self, call: &Call) -> bool {
        let text = |value: &str| regorus::Value::from(value);
        let mut input = regorus::Value::new_object();
        let fields = input.as_object_mut().expect("an object");
        fields.insert(text("principal"), text(call.principal.as_str()));
        fields.insert(text("method"), text(call.method));
        fields.insert(text("service"), text(&call.service));
        fields.insert(text("path"), text(&call.path));
        fields.insert(text("direction"), text("inbound"));
        self.0.set_input(input);
        let allow = self.0.eval_rule("data.wayleave.allow".to_owned());
        allow.expect("an answer") == regorus::Value::from(true)
    }
}

/// The CEL interpreter `cel`: one program for each rule, all run.
pub(crate) struct Cel(Vec<(bool, cel::Program)>);

impl Cel {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let compile = |(forbids, expression): (bool, String)| {
            (
                forbids,
                cel::Program::compile(&expression).expect("an expression"),
            )
        };
        Self(rules::cel(rules).into_iter().map(compile).collect())
    }
}

impl Rival for Cel {
    fn allows(&mut self, call: &Call) -> bool {
        let mut context = cel::Context::default();
        context.add_variable_from_value("principal", call.principal.as_str());
        context.add_variable_from_value("method", call.method);
        context.add_variable_from_value("service", call.service.as_str());
        context.add_variable_from_value("path", call.path.as_str());
        context.add_variable_from_value("direction", "inbound");
        let (mut permitted, mut forbidden) = (false, false);
        for (forbids, program) in &self.0 {
            if program.execute(&context).expect("an answer") == cel::Value::Bool(true) {
                *if *forbids {
                    &mut forbidden
                } else {
                    &mut permitted
                } = true;
            }
        }
        permitted && !forbidden
    }
}
