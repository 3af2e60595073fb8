//! The log's JSON format: one flat object a line, with the fields of the event and of the spans around it.
//!
//! tracing-subscriber's own format nests the spans' fields, so that `traceparent` would have one name in the lines of
//! a handler and another in the lines about a request.

use std::fmt;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats fields as `,"name":value`, and events as an object of such fields.
pub(super) struct JsonLines;

impl<'w> FormatFields<'w> for JsonLines {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut members = Members { writer, result: Ok(()) };
        fields.record(&mut members);
        members.result
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> FormatEvent<S, Self> for JsonLines {
    fn format_event(&self, context: &FmtContext<'_, S, Self>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        out.write_str(r#"{"timestamp":""#)?;
        SystemTime.format_time(&mut out)?;
        write!(out, r#"","level":"{}","target":"{}""#, metadata.level(), metadata.target())?;
        for span in context.event_scope().into_iter().flat_map(|spans| spans.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<Self>>() {
                out.write_str(fields)?;
            }
        }
        self.format_fields(out.by_ref(), event)?;
        out.write_str("}\n")
    }
}

struct Members<'w> {
    writer: Writer<'w>,
    result: fmt::Result,
}

impl Members<'_> {
    fn add(&mut self, field: &Field, value: impl Serialize) {
        let value = serde_json::to_string(&value).unwrap_or_else(|_| "null".into());
        self.result = self.result.and_then(|()| write!(self.writer, r#","{}":{value}"#, field.name()));
    }
}

impl Visit for Members<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}
