//! How keys are shown: JSON for scripts (design.md §2: members may be added, never renamed), a table and a card for
//! people. There is no secret in what it shows, but for the one of a key that was just made.

use crate::domain::units::WallMicros;
use crate::io::store::rows::StoredKey;
use serde::Serialize;
use std::path::PathBuf;

/// What every subcommand takes.
#[derive(clap::Args, Debug)]
pub(super) struct Output {
    /// Configuration file [default: conf/weir.yaml, else /etc/weir/weir.yaml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// One key as scripts see it.
#[derive(Serialize)]
pub(super) struct KeyView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    key_id: &'a str,
    tenant_id: &'a str,
    team_id: Option<&'a str>,
    user_id: Option<&'a str>,
    name: Option<&'a str>,
    models: Option<&'a [String]>,
    plan: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    status: &'static str,
    secret_gen: u32,
    created_at: String,
    expires_at: Option<String>,
}

impl<'a> KeyView<'a> {
    /// A key without its secret.
    pub(super) fn of(key: &'a StoredKey, now: WallMicros) -> Self {
        Self {
            key: None,
            key_id: key.key_id.as_str(),
            tenant_id: &key.tenant,
            team_id: key.team.as_deref(),
            user_id: key.user.as_deref(),
            name: key.name.as_deref(),
            models: key.models.as_deref(),
            plan: key.plan.as_deref(),
            role: key.role.as_deref(),
            status: key.standing(now),
            secret_gen: key.generation(),
            created_at: stamp(key.created_at),
            expires_at: key.expires_at.map(stamp),
        }
    }

    /// The same with its plaintext; only `create` has it.
    pub(super) fn with_key(self, text: &'a str) -> Self {
        Self { key: Some(text), ..self }
    }

    /// What people see: label and value, `-` where there is none.
    fn cells(&self) -> [(&'static str, String); 10] {
        let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| text.escape_debug().to_string());
        [
            ("KEY ID", self.key_id.to_owned()),
            ("NAME", or_dash(self.name)),
            ("TENANT", or_dash(Some(self.tenant_id))),
            ("TEAM", or_dash(self.team_id)),
            ("USER", or_dash(self.user_id)),
            ("MODELS", self.models.map_or_else(|| "all".to_owned(), |list| or_dash(Some(&list.join(","))))),
            ("PLAN", or_dash(self.plan)),
            ("STATUS", self.status.to_owned()),
            ("CREATED", self.created_at.clone()),
            ("EXPIRES", self.expires_at.clone().unwrap_or_else(|| "never".to_owned())),
        ]
    }
}

/// Whole seconds, UTC: `2026-11-20T12:00:00Z`.
fn stamp(at: WallMicros) -> String {
    let seconds = at.0.div_euclid(1_000_000);
    // Beyond the year 9999 there is no such text; the number then says it.
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |stamp| stamp.to_string())
}

/// All keys, one a line, columns aligned.
pub(super) fn table(keys: &[KeyView<'_>]) -> String {
    let rows: Vec<_> = keys.iter().map(KeyView::cells).collect();
    let Some(first) = rows.first() else { return "no keys\n".to_owned() };
    let labels: Vec<&str> = first.iter().map(|(label, _)| *label).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].1.chars().count());
        cells.max().unwrap_or_default().max(labels[column].len())
    };
    let widths: Vec<usize> = (0..labels.len()).map(width).collect();
    let mut text = line(labels.iter().copied(), &widths);
    for row in &rows {
        text.push_str(&line(row.iter().map(|(_, cell)| cell.as_str()), &widths));
    }
    text
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// One key, one member a line.
pub(super) fn card(key: &KeyView<'_>) -> String {
    let mut text = String::new();
    for (label, cell) in key.cells() {
        text.push_str(&format!("{:<8} {cell}\n", label.to_lowercase()));
    }
    text
}
