//! Keys to rows and back. Decides how a key is written down; a row that cannot be read is reported, never guessed.

use super::error::{MAX_KEYS, StoreError};
use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;
use crate::logic::access::api_key;
use crate::logic::access::digest::{DIGEST_LEN, Digest, SecretHash};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

const KIND_PEPPERED: &str = "hmac-sha256";
const KIND_PLAIN: &str = "sha256";

/// What an operator has decided about a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyStatus {
    /// Good, as long as it has not expired.
    Active,
    /// Switched off for now.
    Disabled,
    /// Ended for good.
    Revoked,
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its id.
    pub key_id: KeyId,
    /// What is kept of its secret.
    pub hash: SecretHash,
    /// Who pays.
    pub tenant: String,
    /// Its team.
    pub team: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// Its name, for people.
    pub name: Option<String>,
    /// Model patterns; `None`: all that the tenant may use.
    pub models: Option<Vec<String>>,
    /// A plan of its own.
    pub plan: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// When it ends; `None`: never.
    pub expires_at: Option<WallMicros>,
}

/// One secret of a key.
#[derive(Clone, Debug)]
pub struct StoredSecret {
    /// Counts from 1.
    pub generation: u32,
    /// What is kept of it.
    pub hash: SecretHash,
}

/// A key as it is in the store.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// Its id.
    pub key_id: KeyId,
    /// Who pays.
    pub tenant: String,
    /// Its team.
    pub team: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// Its name, for people.
    pub name: Option<String>,
    /// Model patterns; `None`: all that the tenant may use.
    pub models: Option<Vec<String>>,
    /// A plan of its own.
    pub plan: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// What an operator has decided.
    pub status: KeyStatus,
    /// When it was made.
    pub created_at: WallMicros,
    /// From when on it is no longer good.
    pub expires_at: Option<WallMicros>,
    /// Its secrets, oldest first; at least one.
    pub secrets: Vec<StoredSecret>,
}

impl StoredKey {
    /// `active`, `disabled`, `expired` or `revoked`; the strongest of those that hold.
    #[must_use]
    pub fn standing(&self, now: WallMicros) -> &'static str {
        match self.status {
            KeyStatus::Revoked => "revoked",
            KeyStatus::Disabled => "disabled",
            KeyStatus::Active if self.expires_at.is_some_and(|end| end <= now) => "expired",
            KeyStatus::Active => "active",
        }
    }

    /// Generation of the newest secret.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.secrets.last().map_or(0, |secret| secret.generation)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Rows {
    /// The keys, by id.
    pub keys: Vec<StoredKey>,
    /// One [`StoreError::BrokenRow`] for each row that is no key: that key is refused, the others are not.
    pub broken: Vec<StoreError>,
}

const SELECT: &str = "SELECT k.key_id, k.tenant_id, k.team_id, k.user_id, k.name, k.models, k.plan, k.role, k.status,
    k.created_at, k.expires_at, s.generation, s.kind, s.hash, s.pepper_id
    FROM api_keys k JOIN api_key_secrets s ON s.key_id = k.key_id";

/// Every key, by id.
pub(super) fn all(connection: &Connection) -> Result<Rows, StoreError> {
    collect(connection, &format!("{SELECT} ORDER BY k.key_id, s.generation"), [])
}

/// One key.
pub(super) fn one(connection: &Connection, key_id: &str) -> Result<Option<StoredKey>, StoreError> {
    let mut rows = collect(connection, &format!("{SELECT} WHERE k.key_id = ?1 ORDER BY s.generation"), [key_id])?;
    rows.broken.pop().map_or(Ok(rows.keys.pop()), Err)
}

/// The change counter; an error where the file is no key store.
pub(super) fn epoch(connection: &Connection) -> Result<i64, StoreError> {
    let found = connection.query_row("SELECT value FROM key_epoch WHERE id = 1", [], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or_default())
}

/// Writes a new key with its first secret.
pub(super) fn insert(tx: &Transaction<'_>, key: &NewKey, now: WallMicros) -> Result<(), StoreError> {
    let models = key.models.as_ref().map(|list| serde_json::Value::from(list.clone()).to_string());
    tx.prepare_cached(
        "INSERT INTO api_keys (key_id, tenant_id, team_id, user_id, name, models, plan, role, status, created_at,
         expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'active', ?9, ?10)",
    )?
    .execute(params![
        key.key_id.as_str(),
        key.tenant,
        key.team,
        key.user,
        key.name,
        models,
        key.plan,
        key.role,
        now.0,
        key.expires_at.map(|end| end.0),
    ])?;
    let (kind, digest, pepper_id) = match &key.hash {
        SecretHash::Peppered { pepper_id, digest } => (KIND_PEPPERED, digest, Some(pepper_id)),
        SecretHash::Plain(digest) => (KIND_PLAIN, digest, None),
    };
    tx.prepare_cached(
        "INSERT INTO api_key_secrets (key_id, generation, kind, hash, pepper_id, created_at)
         VALUES (?1, 1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![key.key_id.as_str(), kind, digest.0, pepper_id, now.0])?;
    Ok(())
}

/// Reads joined rows, ordered by key: neighbours with the same id are generations of one key.
fn collect(connection: &Connection, sql: &str, bound: impl rusqlite::Params) -> Result<Rows, StoreError> {
    let mut found = Rows::default();
    let mut statement = connection.prepare(sql)?;
    let mut cursor = statement.query(bound)?;
    while let Some(row) = cursor.next()? {
        let key_id: String = row.get(0)?;
        let secret = match secret(row) {
            Ok(secret) => secret,
            Err(fault) => {
                found.broken.push(StoreError::BrokenRow { key_id, fault });
                continue;
            }
        };
        if let Some(last) = found.keys.last_mut().filter(|last| last.key_id.as_str() == key_id) {
            last.secrets.push(secret);
            continue;
        }
        if found.keys.len() + found.broken.len() >= MAX_KEYS {
            return Err(StoreError::TooManyKeys);
        }
        match key(row, &key_id, secret) {
            Ok(key) => found.keys.push(key),
            Err(fault) => found.broken.push(StoreError::BrokenRow { key_id, fault }),
        }
    }
    Ok(found)
}

fn key(row: &Row<'_>, key_id: &str, secret: StoredSecret) -> Result<StoredKey, String> {
    api_key::parse_id(key_id).ok_or("its id is not 12 letters or digits")?;
    let models: Option<String> = get(row, 5)?;
    let models = models.map(|json| serde_json::from_str(&json)).transpose();
    let status: String = get(row, 8)?;
    Ok(StoredKey {
        key_id: KeyId::new(key_id),
        tenant: get(row, 1)?,
        team: get(row, 2)?,
        user: get(row, 3)?,
        name: get(row, 4)?,
        models: models.map_err(|_| "models is not a list of names")?,
        plan: get(row, 6)?,
        role: get(row, 7)?,
        status: match status.as_str() {
            "active" => KeyStatus::Active,
            "disabled" => KeyStatus::Disabled,
            "revoked" => KeyStatus::Revoked,
            _ => return Err("its status is unknown".to_owned()),
        },
        created_at: WallMicros(get(row, 9)?),
        expires_at: get::<Option<i64>>(row, 10)?.map(WallMicros),
        secrets: vec![secret],
    })
}

fn secret(row: &Row<'_>) -> Result<StoredSecret, String> {
    let kind: String = get(row, 12)?;
    let digest = Digest(get::<[u8; DIGEST_LEN]>(row, 13)?);
    let pepper_id: Option<String> = get(row, 14)?;
    let hash = match (kind.as_str(), pepper_id) {
        (KIND_PEPPERED, Some(pepper_id)) => SecretHash::Peppered { pepper_id, digest },
        (KIND_PLAIN, _) => SecretHash::Plain(digest),
        _ => return Err("the kind of its hash is unknown".to_owned()),
    };
    Ok(StoredSecret { generation: get(row, 11)?, hash })
}

/// Names the column, never its content.
fn get<T: rusqlite::types::FromSql>(row: &Row<'_>, column: usize) -> Result<T, String> {
    row.get(column).map_err(|_| format!("column {} has a wrong value", row.as_ref().column_name(column).unwrap_or("?")))
}
