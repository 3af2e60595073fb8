//! The log's JSON format: one flat object a line, with the fields of the event and of the spans around it.
//!
//! tracing-subscriber's own format nests the spans' fields, so that `traceparent` would have one name in the lines of
//! a handler and another in the lines about a request. It also repeats a member if a handler's field has the name of
//! another, and parsers then disagree about its value.

use std::fmt;
use std::io::Write;

use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Writes each event to this writer.
pub(super) struct JsonLines<W>(pub(super) W);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut members = Members::default();
            attributes.record(&mut members);
            span.extensions_mut().insert(members);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(members) = span.extensions_mut().get_mut::<Members>()
        {
            values.record(members);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Members::default();
        let mut timestamp = String::new();
        // Writing to a `String` never fails.
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        line.set("timestamp", timestamp);
        line.set("level", event.metadata().level().as_str());
        line.set("target", event.metadata().target());
        for span in context.event_scope(event).into_iter().flat_map(|spans| spans.from_root()) {
            if let Some(Members(fields)) = span.extensions().get() {
                fields.iter().for_each(|(name, value)| line.set(name, value.clone()));
            }
        }
        event.record(&mut line);
        // Strings, numbers and booleans are always written.
        let line = serde_json::to_string(&line).unwrap_or_default() + "\n";
        // There is no other place to report an error of the log to.
        let _ = self.0.make_writer_for(event.metadata()).write_all(line.as_bytes());
    }
}

/// The members of an object, in order. Each name occurs once: the innermost span's value counts, or the event's own.
#[derive(Default)]
struct Members(Vec<(&'static str, Value)>);

impl Members {
    fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((name, value.into())),
        }
    }

    /// A field can't replace what each line begins with.
    fn set_field(&mut self, field: &Field, value: impl Into<Value>) {
        let name = match field.name() {
            "timestamp" => "field_timestamp",
            "level" => "field_level",
            "target" => "field_target",
            name => name,
        };
        self.set(name, value);
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Visit for Members {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_field(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set_field(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set_field(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set_field(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set_field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_field(field, format!("{value:?}"));
    }
}
