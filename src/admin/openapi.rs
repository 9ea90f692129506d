//! Writes the OpenAPI 3.1 document out of the table of operations. Decides its form only: what is in it is the
//! table's and the types'.

use super::operation::{Needs, Operation, SchemaOf};
use super::query::{Kind, Parameter};
use super::{PREFIX, form};
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Version of the API: counts up when something is taken away or renamed.
const VERSION: &str = "1.0.0";
const ABOUT: &str = "Tenants, teams, users, keys, plans, budgets, usage and the audit log of one Weir installation. \
    A tenant administrator sees their own tenant; what is another's looks as if it were not there. Configured \
    tenants and plans are shown and cannot be changed here. Errors have OpenAI's shape.";

/// The document and its parts that the dispatcher checks bodies by.
pub struct Document {
    /// The whole document.
    pub whole: Value,
    /// Named schemas.
    pub definitions: Map<String, Value>,
    /// Request schemas by `operationId`.
    pub requests: BTreeMap<&'static str, Value>,
}

impl Document {
    /// The document of a table.
    #[must_use]
    pub fn of(operations: &[Operation]) -> Self {
        // What is read may leave members out that what is written always has: two generators.
        let mut read = generator(false);
        let mut written = generator(true);
        let mut paths: Map<String, Value> = Map::new();
        let mut requests = BTreeMap::new();
        for operation in operations {
            let request = operation.request.map(|body| schema(&mut read, body.schema));
            let entry = describe(operation, request.as_ref(), &schema(&mut written, operation.response));
            requests.extend(request.map(|request| (operation.id, request)));
            let path = paths.entry(operation.path).or_insert_with(|| json!({}));
            if let Value::Object(path) = path {
                path.insert(operation.method.to_lowercase(), entry);
            }
        }
        let mut definitions = read.take_definitions(true);
        definitions.extend(written.take_definitions(true));
        definitions.insert("Error".to_owned(), error_schema());
        let whole = json!({
            "openapi": "3.1.0",
            "info": {"title": "Weir admin API", "version": VERSION, "description": ABOUT},
            "servers": [{"url": PREFIX}],
            "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
            "paths": paths,
            "components": {
                "schemas": definitions,
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer",
                    "description": "An API key, or a token of an identity provider, whose roles have the scope."}},
            },
        });
        Self { whole, definitions, requests }
    }
}

fn generator(writes: bool) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    if writes { settings.for_serialize() } else { settings.for_deserialize() }.into_generator()
}

fn schema(generator: &mut SchemaGenerator, of: SchemaOf) -> Value {
    Schema::to_value(of(generator))
}

fn describe(operation: &Operation, request: Option<&Value>, response: &Value) -> Value {
    let mut entry = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "description": format!("{}{}", about(operation), needs(operation.needs)),
        "security": if operation.needs == Needs::Nobody { json!([]) } else { json!([{"bearer": []}]) },
        "parameters": parameters(operation),
        "responses": responses(operation, response),
    });
    if let (Some(body), Some(schema), Value::Object(entry)) = (operation.request, request, &mut entry) {
        let content = json!({"application/json": {"schema": schema}});
        entry.insert("requestBody".to_owned(), json!({"required": body.required, "content": content}));
    }
    entry
}

fn about(operation: &Operation) -> String {
    if operation.about.is_empty() { String::new() } else { format!("{} ", operation.about) }
}

fn needs(needs: Needs) -> String {
    match needs {
        Needs::Nobody => "Needs no token.".to_owned(),
        Needs::Scope(scope) => format!("Needs the scope `{}`.", scope.name()),
        Needs::Operator => "Needs the scope `admin` in a role that reaches all tenants.".to_owned(),
    }
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let one = |parameter: &Parameter, place: &str| {
        let mut entry = json!({
            "name": parameter.name, "in": place, "required": place == "path",
            "description": parameter.about, "schema": parameter.schema(),
        });
        if let (Kind::Words(_), Value::Object(entry)) = (parameter.kind, &mut entry) {
            // One value with commas.
            entry.insert("style".to_owned(), "form".into());
            entry.insert("explode".to_owned(), false.into());
        }
        entry
    };
    let mut all: Vec<Value> = operation.path_parameters().map(|parameter| one(&parameter, "path")).collect();
    all.extend(operation.query.iter().map(|parameter| one(parameter, "query")));
    if operation.idempotent_by_key {
        all.push(one(&IDEMPOTENCY, "header"));
    }
    all
}

/// The header that makes a repetition harmless.
pub const IDEMPOTENCY: Parameter = Parameter::new(
    "Idempotency-Key",
    Kind::Text(form::IDEMPOTENCY_KEY),
    "A repetition within 24 hours gets the first answer again, without the plaintext of the key.",
);

fn responses(operation: &Operation, response: &Value) -> Value {
    let id = json!({"x-request-id": {"description": "Names this request in logs.", "schema": {"type": "string"}}});
    let mut all = Map::new();
    for status in operation.statuses() {
        let good = status == operation.status;
        let schema = if good { response.clone() } else { json!({"$ref": "#/components/schemas/Error"}) };
        let content = json!({"application/json": {"schema": schema}});
        all.insert(status.to_string(), json!({"description": reason(status), "headers": id, "content": content}));
    }
    Value::Object(all)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "Done.",
        201 => "Made.",
        400 => "The request cannot be read, or a parameter is wrong.",
        401 => "No credential, or none that holds.",
        403 => "The credential does not allow it.",
        404 => "It does not exist, or is another tenant's.",
        405 => "The path does not know the method.",
        408 => "The body did not come in time.",
        409 => "What is there does not go with what is asked.",
        413 => "The body is over 1 MiB.",
        415 => "The body is not JSON.",
        422 => "A member of the body is wrong; `param` points to it.",
        503 => "A store does not answer. Try again.",
        _ => "Our own fault.",
    }
}

fn error_schema() -> Value {
    let nullable = json!({"type": ["string", "null"]});
    json!({
        "type": "object", "required": ["error"], "additionalProperties": false,
        "properties": {"error": {
            "type": "object", "required": ["message", "type", "param", "code"], "additionalProperties": false,
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"}, "param": nullable, "code": nullable,
            },
        }},
    })
}
