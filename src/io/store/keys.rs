//! Keys to rows and back. Decides how a key is written down; a row that cannot be read is reported, never guessed.

use super::error::StoreError;
use super::rows::{BrokenRow, KeyFilter, KeyStatus, NewKey, StoredKey, StoredSecret};
use super::sql::{Columns, Fault, Sql, Value};
use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;
use crate::logic::access::api_key;
use crate::logic::access::digest::{DIGEST_LEN, Digest, SecretHash};
use ipnet::IpNet;
use serde::de::DeserializeOwned;

const KIND_PEPPERED: &str = "hmac-sha256";
const KIND_PLAIN: &str = "sha256";

/// A key as it was read, or why it could not be.
pub(super) type Read = Result<StoredKey, BrokenRow>;

const SELECT: &str = "SELECT k.key_id, k.tenant_id, k.team_id, k.user_id, k.name, k.models, k.endpoints, k.addresses,
    k.plan, k.roles, k.status, k.terminate_streams, k.created_at, k.expires_at, k.revoked_at, k.epoch,
    s.generation, s.kind, s.hash, s.pepper_id, s.created_at AS made_at, s.valid_until
    FROM api_keys k LEFT JOIN api_key_secrets s ON s.key_id = k.key_id";
/// Where the columns of the secret begin.
const SECRET: usize = 16;

/// One key.
pub(super) fn one(sql: &mut Sql, key_id: &str) -> Result<Option<StoredKey>, StoreError> {
    let mut found = None;
    let statement = format!("{SELECT} WHERE k.key_id = $1 ORDER BY s.generation");
    collect(sql, &statement, &[key_id.into()], &mut |read| {
        found = Some(read);
        Ok(())
    })?;
    found.transpose().map_err(StoreError::BrokenRow)
}

/// Every key, or those that a change after `since` has written; by id.
pub(super) fn changed(
    sql: &mut Sql,
    since: Option<i64>,
    each: &mut dyn FnMut(Read) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    match since {
        None => collect(sql, &format!("{SELECT} ORDER BY k.key_id, s.generation"), &[], each),
        Some(epoch) => {
            collect(sql, &format!("{SELECT} WHERE k.epoch > $1 ORDER BY k.key_id, s.generation"), &[epoch.into()], each)
        }
    }
}

/// Those that a filter lets through, behind `after`, by id.
pub(super) fn page(sql: &mut Sql, filter: &KeyFilter, after: &str, limit: u32) -> Result<Vec<Read>, StoreError> {
    let mut values: Vec<Value<'_>> = vec![after.into(), i64::from(limit).into()];
    let mut wanted = "key_id > $1".to_owned();
    for (column, value) in [("tenant_id", &filter.tenant), ("team_id", &filter.team), ("user_id", &filter.user)] {
        if let Some(value) = value {
            values.push(value.into());
            wanted.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    let statement = format!(
        "{SELECT} WHERE k.key_id IN (SELECT key_id FROM api_keys WHERE {wanted} ORDER BY key_id LIMIT $2)
         ORDER BY k.key_id, s.generation"
    );
    let mut found = Vec::new();
    collect(sql, &statement, &values, &mut |read| {
        found.push(read);
        Ok(())
    })?;
    Ok(found)
}

/// How many keys there are, revoked ones too.
pub(super) fn count(sql: &mut Sql) -> Result<usize, StoreError> {
    let count = sql.query_one("SELECT key_count FROM meta WHERE id = 1", &[], |row| row.need_int(0))?;
    Ok(usize::try_from(count.unwrap_or_default()).unwrap_or(usize::MAX))
}

/// How many keys a tenant has, revoked ones too.
pub(super) fn count_of(sql: &mut Sql, tenant: &str) -> Result<usize, StoreError> {
    let statement = "SELECT count(*) FROM api_keys WHERE tenant_id = $1";
    let count = sql.query_one(statement, &[tenant.into()], |row| row.need_int(0))?;
    Ok(usize::try_from(count.unwrap_or_default()).unwrap_or(usize::MAX))
}

/// Notes how many were made: nobody counts a million rows for each new one.
pub(super) fn add_to_count(sql: &mut Sql, made: usize) -> Result<(), StoreError> {
    let made = i64::try_from(made).unwrap_or(i64::MAX);
    sql.execute("UPDATE meta SET key_count = key_count + $1 WHERE id = 1", &[made.into()])?;
    Ok(())
}

/// Keys that were not revoked and of which `column` is `value` within a tenant.
pub(super) fn living(sql: &mut Sql, tenant: Option<&str>, column: &str, value: &str) -> Result<i64, StoreError> {
    let mut statement = format!("SELECT count(*) FROM api_keys WHERE status <> 'revoked' AND {column} = $1");
    let mut values: Vec<Value<'_>> = vec![value.into()];
    if let Some(tenant) = tenant {
        statement.push_str(" AND tenant_id = $2");
        values.push(tenant.into());
    }
    Ok(sql.query_one(&statement, &values, |row| row.need_int(0))?.unwrap_or_default())
}

/// Writes a new key with its first secret; `None` where the id exists.
pub(super) fn insert(
    sql: &mut Sql,
    key: &NewKey,
    now: WallMicros,
    epoch: i64,
) -> Result<Option<StoredKey>, StoreError> {
    let secret = StoredSecret { generation: 1, hash: key.hash.clone(), created_at: now, valid_until: None };
    let stored = StoredKey {
        key_id: key.key_id.clone(),
        tenant: key.tenant.clone(),
        team: key.team.clone(),
        user: key.user.clone(),
        name: key.name.clone(),
        models: key.models.clone(),
        endpoints: key.endpoints.clone(),
        addresses: key.addresses.clone(),
        plan: key.plan.clone(),
        roles: key.roles.clone(),
        status: KeyStatus::Active,
        terminate_streams: false,
        created_at: now,
        expires_at: key.expires_at,
        revoked_at: None,
        epoch,
        secrets: vec![secret.clone()],
    };
    if put(sql, INSERT_NEW, &stored, epoch)? == 0 {
        return Ok(None);
    }
    insert_secret(sql, &key.key_id, &secret)?;
    Ok(Some(stored))
}

const INSERT_NEW: &str =
    "INSERT INTO api_keys (key_id, tenant_id, team_id, user_id, name, models, endpoints, addresses,
    plan, roles, status, terminate_streams, created_at, expires_at, revoked_at, epoch)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT (key_id) DO NOTHING";
const INSERT_OR_UPDATE: &str = "INSERT INTO api_keys (key_id, tenant_id, team_id, user_id, name, models, endpoints,
    addresses, plan, roles, status, terminate_streams, created_at, expires_at, revoked_at, epoch)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
    ON CONFLICT (key_id) DO UPDATE SET tenant_id = excluded.tenant_id, team_id = excluded.team_id,
    user_id = excluded.user_id, name = excluded.name, models = excluded.models, endpoints = excluded.endpoints,
    addresses = excluded.addresses, plan = excluded.plan, roles = excluded.roles, status = excluded.status,
    terminate_streams = excluded.terminate_streams, created_at = excluded.created_at,
    expires_at = excluded.expires_at, revoked_at = excluded.revoked_at, epoch = excluded.epoch";

/// Writes all of a key but its secrets, whether it is there or not.
pub(super) fn write(sql: &mut Sql, key: &StoredKey, epoch: i64) -> Result<(), StoreError> {
    put(sql, INSERT_OR_UPDATE, key, epoch).map(|_rows| ())
}

/// How many rows were written.
fn put(sql: &mut Sql, statement: &str, key: &StoredKey, epoch: i64) -> Result<u64, StoreError> {
    let (models, endpoints, roles) = (list(&key.models), list(&key.endpoints), list(&key.roles));
    let addresses = list(&key.addresses.as_deref().map(shown));
    sql.execute(
        statement,
        &[
            key.key_id.as_str().into(),
            (&key.tenant).into(),
            key.team.as_ref().into(),
            key.user.as_ref().into(),
            key.name.as_ref().into(),
            models.as_ref().into(),
            endpoints.as_ref().into(),
            addresses.as_ref().into(),
            key.plan.as_ref().into(),
            roles.as_ref().into(),
            status_name(key.status).into(),
            key.terminate_streams.into(),
            key.created_at.0.into(),
            key.expires_at.map(|at| at.0).into(),
            key.revoked_at.map(|at| at.0).into(),
            epoch.into(),
        ],
    )
}

/// Adds a secret.
pub(super) fn insert_secret(sql: &mut Sql, key_id: &KeyId, secret: &StoredSecret) -> Result<(), StoreError> {
    let (kind, digest, pepper_id) = match &secret.hash {
        SecretHash::Peppered { pepper_id, digest } => (KIND_PEPPERED, digest, Some(pepper_id)),
        SecretHash::Plain(digest) => (KIND_PLAIN, digest, None),
    };
    sql.execute(
        "INSERT INTO api_key_secrets (key_id, generation, kind, hash, pepper_id, created_at, valid_until)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[
            key_id.as_str().into(),
            i64::from(secret.generation).into(),
            kind.into(),
            Value::Bytes(&digest.0),
            pepper_id.into(),
            secret.created_at.0.into(),
            secret.valid_until.map(|at| at.0).into(),
        ],
    )?;
    Ok(())
}

/// Takes the secrets away that are older than `generation`.
pub(super) fn forget_before(sql: &mut Sql, key_id: &KeyId, generation: u32) -> Result<(), StoreError> {
    sql.execute(
        "DELETE FROM api_key_secrets WHERE key_id = $1 AND generation < $2",
        &[key_id.as_str().into(), i64::from(generation).into()],
    )?;
    Ok(())
}

/// Sets when a secret ends.
pub(super) fn end_at(sql: &mut Sql, key_id: &KeyId, generation: u32, end: WallMicros) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE api_key_secrets SET valid_until = $3 WHERE key_id = $1 AND generation = $2",
        &[key_id.as_str().into(), i64::from(generation).into(), end.0.into()],
    )?;
    Ok(())
}

/// Reads joined rows, ordered by key: neighbours with the same id are generations of one key.
fn collect(
    sql: &mut Sql,
    statement: &str,
    values: &[Value<'_>],
    each: &mut dyn FnMut(Read) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    // The key that is being read, with its id apart: it is known even where nothing else can be read.
    let mut current: Option<(String, Result<StoredKey, Fault>)> = None;
    sql.query_each(statement, values, &mut |row| {
        let key_id = row.need_text(0).map_err(StoreError::Damaged)?;
        if current.as_ref().is_none_or(|(id, _)| *id != key_id) {
            let read = key(row, &key_id);
            if let Some(done) = current.replace((key_id, read)) {
                each(whole(done))?;
            }
        }
        if let Some((_, read)) = &mut current {
            add_secret(read, row);
        }
        Ok(())
    })?;
    current.map_or(Ok(()), |done| each(whole(done)))
}

fn add_secret(read: &mut Result<StoredKey, Fault>, row: &dyn Columns) {
    let Ok(key) = read else { return };
    match secret(row) {
        Ok(secret) => key.secrets.push(secret),
        Err(fault) => *read = Err(fault),
    }
}

fn whole((id, read): (String, Result<StoredKey, Fault>)) -> Read {
    read.map_err(|fault| BrokenRow { what: "key", id, fault })
}

fn key(row: &dyn Columns, key_id: &str) -> Result<StoredKey, Fault> {
    api_key::parse_id(key_id).ok_or("its id is not 12 letters or digits")?;
    Ok(StoredKey {
        key_id: KeyId::new(key_id),
        tenant: row.need_text(1)?,
        team: row.owned(2)?,
        user: row.owned(3)?,
        name: row.owned(4)?,
        models: json(row, 5, "models is not a list of names")?,
        endpoints: json(row, 6, "endpoints is not a list of patterns")?,
        addresses: networks(row, 7)?,
        plan: row.owned(8)?,
        roles: json(row, 9, "roles is not a list of names")?,
        status: status(row.text(10)?)?,
        terminate_streams: row.flag(11)?,
        created_at: WallMicros(row.need_int(12)?),
        expires_at: row.int(13)?.map(WallMicros),
        revoked_at: row.int(14)?.map(WallMicros),
        epoch: row.need_int(15)?,
        secrets: Vec::with_capacity(1),
    })
}

fn secret(row: &dyn Columns) -> Result<StoredSecret, Fault> {
    let generation = row.int(SECRET)?.ok_or("it has no secret")?;
    let digest = row.bytes(SECRET + 2)?.and_then(|bytes| <[u8; DIGEST_LEN]>::try_from(bytes).ok());
    let digest = Digest(digest.ok_or("its hash has a wrong length")?);
    let hash = match (row.text(SECRET + 1)?, row.owned(SECRET + 3)?) {
        (Some(KIND_PEPPERED), Some(pepper_id)) => SecretHash::Peppered { pepper_id, digest },
        (Some(KIND_PLAIN), _) => SecretHash::Plain(digest),
        _ => return Err("the kind of its hash is unknown".to_owned()),
    };
    Ok(StoredSecret {
        generation: u32::try_from(generation).map_err(|_| "its generation is out of range")?,
        hash,
        created_at: WallMicros(row.need_int(SECRET + 4)?),
        valid_until: row.int(SECRET + 5)?.map(WallMicros),
    })
}

fn json<T: DeserializeOwned>(row: &dyn Columns, at: usize, fault: &str) -> Result<Option<T>, Fault> {
    row.text(at)?.map(serde_json::from_str).transpose().map_err(|_| fault.to_owned())
}

fn networks(row: &dyn Columns, at: usize) -> Result<Option<Vec<IpNet>>, Fault> {
    let fault = "addresses is not a list of networks";
    let Some(texts) = json::<Vec<String>>(row, at, fault)? else { return Ok(None) };
    texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Some).map_err(|_| fault.to_owned())
}

fn shown(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(IpNet::to_string).collect()
}

fn list(items: &Option<Vec<String>>) -> Option<String> {
    items.as_ref().map(|items| serde_json::Value::from(items.clone()).to_string())
}

fn status_name(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Active => "active",
        KeyStatus::Disabled => "disabled",
        KeyStatus::Revoked => "revoked",
    }
}

fn status(name: Option<&str>) -> Result<KeyStatus, Fault> {
    match name {
        Some("active") => Ok(KeyStatus::Active),
        Some("disabled") => Ok(KeyStatus::Disabled),
        Some("revoked") => Ok(KeyStatus::Revoked),
        _ => Err("its status is unknown".to_owned()),
    }
}

/// What the audit log keeps of a key: all but the hashes of its secrets.
pub(super) fn view(key: &StoredKey) -> serde_json::Value {
    let secrets = key.secrets.iter().map(|secret| {
        serde_json::json!({"generation": secret.generation, "created_at": secret.created_at, "valid_until": secret.valid_until})
    });
    serde_json::json!({
        "key_id": key.key_id, "tenant_id": key.tenant, "team_id": key.team, "user_id": key.user, "name": key.name,
        "models": key.models, "endpoints": key.endpoints, "addresses": key.addresses.as_deref().map(shown), "plan": key.plan,
        "roles": key.roles, "status": status_name(key.status), "terminate_streams": key.terminate_streams,
        "created_at": key.created_at, "expires_at": key.expires_at, "revoked_at": key.revoked_at,
        "secrets": secrets.collect::<Vec<_>>(),
    })
}
