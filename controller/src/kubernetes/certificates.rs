//! The controller's authorities in the cluster: kept in a Secret, announced in a `ConfigMap`.
//!
//! Only the leader writes either, each time on the version that it has read. A leader that takes
//! over finds the Secret of the one before, and so every agent's certificate is good as before.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamicswap_proto::identity::{TRUST, TRUST_KEY};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use thiserror::Error;
use tokio::sync::watch;
use tracing::info;

use super::error::{ApiError, Trouble, with_cause, within};
use super::lease::Leadership;
use super::resources::FIELD_MANAGER;
use crate::clock::unix_s;
use crate::limits::{CERTIFICATES_LOOK, CERTIFICATES_RETRY, RECORD_ATTEMPTS_MAX};
use crate::tls::plan::{Life, Use, is_due, judge};
use crate::tls::{
    Authority, Credentials, GivenAuthority, Serving, TlsError, bundle, certificates_in,
};

/// The Secret with the authorities.
const SECRET: &str = "dynamicswap-authority";
/// Ends of the Secret's keys, after a name that both parts of an authority have.
const CERTIFICATE_END: &str = ".crt";
const KEY_END: &str = ".key";

/// Where authorities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This controller makes them.
    Own,
    /// Somebody else does.
    Given(GivenAuthority),
}

/// Why there are no certificates.
#[derive(Debug, Error)]
pub enum CertificatesError {
    /// The API server did not do it.
    #[error("{}", with_cause(.0))]
    Api(#[from] ApiError),
    /// A key or certificate is of no use.
    #[error("{}", with_cause(.0))]
    Tls(#[from] TlsError),
    /// What the Secret holds is of no use.
    #[error(
        "the Secret {SECRET} holds something that is no authority ({0}): delete it, then a new one \
         is made, and every agent enrolls again"
    )]
    Secret(TlsError),
    /// Somebody else writes the Secret all the time.
    #[error(
        "the Secret {SECRET} was changed by somebody else {RECORD_ATTEMPTS_MAX} times in a row"
    )]
    Busy,
    /// The lease is somebody else's.
    #[error("this controller leads no more")]
    Deposed,
}

impl CertificatesError {
    /// The API server is in trouble: it will go better later.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_trouble())
    }
}

/// What signs and what is trusted.
struct Standing {
    signer: Arc<Authority>,
    /// As PEM.
    trusted: String,
}

/// Keeps authorities and certificates in order; see the module.
pub struct Certificates {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    leadership: Arc<Leadership>,
    source: Source,
    /// What is served with, when it runs out, and what it was made of.
    served: Option<(Life, Life, String)>,
    serving: Option<watch::Sender<Serving>>,
}

impl Certificates {
    /// Finds or makes an authority, announces it, and makes a certificate to serve with.
    ///
    /// # Errors
    /// If the API server does not answer, or what is kept there or given is of no use.
    pub async fn prepare(
        client: &Client,
        namespace: &str,
        leadership: Arc<Leadership>,
        source: Source,
    ) -> Result<(Self, watch::Receiver<Serving>), CertificatesError> {
        let mut certificates = Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            leadership,
            source,
            served: None,
            serving: None,
        };
        certificates.look(unix_s()).await?;
        let serving = certificates.serving.as_ref().map(watch::Sender::subscribe);
        let serving = serving.ok_or(CertificatesError::Deposed)?;
        Ok((certificates, serving))
    }

    /// Looks again and again while the leadership holds.
    pub async fn keep(mut self) {
        let mut trouble = Trouble::default();
        let mut pause = CERTIFICATES_LOOK;
        while self.leadership.holds() {
            tokio::time::sleep(pause).await;
            let looked = self.look(unix_s()).await;
            trouble.note("certificates are not renewed", looked.as_ref().err());
            pause = match looked {
                Ok(()) => CERTIFICATES_LOOK,
                Err(_) => CERTIFICATES_RETRY,
            };
        }
    }

    /// Does what is due now. What is trusted is announced before it is made use of.
    async fn look(&mut self, now: u64) -> Result<(), CertificatesError> {
        let standing = match &self.source {
            Source::Own => self.own(now).await?,
            Source::Given(given) => {
                let (authority, above) = given.load()?;
                let own = authority.certificate_pem();
                let trusted = bundle([own, above.as_deref().unwrap_or_default()].into_iter());
                Standing {
                    signer: Arc::new(authority),
                    trusted,
                }
            }
        };
        self.announce(&standing.trusted).await?;
        self.serve(standing, now)
    }

    /// The authorities in the Secret, made, renewed and dropped as they are due.
    async fn own(&self, now: u64) -> Result<Standing, CertificatesError> {
        for _ in 0..RECORD_ATTEMPTS_MAX {
            let read = self.secrets.get_opt(SECRET);
            let found = within(format!("read the Secret {SECRET}"), read).await?;
            let kept = found.as_ref().map(authorities_of).transpose();
            let kept = kept.map_err(CertificatesError::Secret)?.unwrap_or_default();
            let before = kept.len();
            let (authorities, has_made) = settle(kept, now)?;
            if !has_made && authorities.len() == before {
                return standing(authorities, now);
            }
            if !self.leadership.holds() {
                return Err(CertificatesError::Deposed);
            }
            match self.write(found, &authorities).await {
                Ok(()) if has_made => {
                    info!("a new authority is in the Secret {SECRET}");
                    return standing(authorities, now);
                }
                Ok(()) => {
                    info!("an authority of which nothing is good any more is gone from {SECRET}");
                    return standing(authorities, now);
                }
                // Another was quicker: what is there now counts.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CertificatesError::Busy)
    }

    /// Writes the Secret as it was read; the server refuses if it is another one by now.
    async fn write(
        &self,
        found: Option<Secret>,
        authorities: &[Authority],
    ) -> Result<(), ApiError> {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let what = format!("write the Secret {SECRET}");
        let is_new = found.is_none();
        let secret = secret_of(found, authorities);
        if is_new {
            within(what, self.secrets.create(&params, &secret)).await?;
        } else {
            let replaced = self.secrets.replace(SECRET, &params, &secret);
            within(what, replaced).await?;
        }
        Ok(())
    }

    /// Has the `ConfigMap` say what is trusted.
    async fn announce(&self, trusted: &str) -> Result<(), CertificatesError> {
        let what = format!("the ConfigMap {TRUST}");
        let read = self.config_maps.get_opt(TRUST);
        let found = within(format!("read {what}"), read).await?;
        let is_right = found.is_some_and(|found| {
            let data = found.data.as_ref();
            data.and_then(|data| data.get(TRUST_KEY))
                .map(String::as_str)
                == Some(trusted)
        });
        if is_right {
            return Ok(());
        }
        if !self.leadership.holds() {
            return Err(CertificatesError::Deposed);
        }
        let wanted = ConfigMap {
            metadata: metadata(TRUST),
            data: Some(BTreeMap::from([(TRUST_KEY.to_owned(), trusted.to_owned())])),
            ..ConfigMap::default()
        };
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&wanted);
        let applied = self.config_maps.patch(TRUST, &params, &patch);
        within(format!("write {what}"), applied).await?;
        info!("{what} says whom agents are to trust");
        Ok(())
    }

    /// Serves with a certificate of the signer, a new one if it is due.
    fn serve(&mut self, standing: Standing, now: u64) -> Result<(), CertificatesError> {
        let Standing { signer, trusted } = standing;
        let is_good = |(own, authority, before): &(Life, Life, String)| {
            !is_due(*own, now) && *authority == signer.life() && *before == trusted
        };
        if self.served.as_ref().is_some_and(is_good) {
            return Ok(());
        }
        let (issued, key) = signer.serve(now)?;
        let credentials = Credentials {
            chain: issued.chain,
            key,
            trusted: certificates_in(&trusted)?,
        };
        let authority = signer.life();
        let serving = Serving {
            config: credentials.into_config()?,
            signer: Some(signer),
        };
        info!("a new certificate to serve with");
        self.served = Some((issued.life, authority, trusted));
        match &self.serving {
            Some(sender) => drop(sender.send_replace(serving)),
            None => self.serving = Some(watch::Sender::new(serving)),
        }
        Ok(())
    }
}

/// What is left of `kept` and what is added to it; whether something was.
fn settle(kept: Vec<Authority>, now: u64) -> Result<(Vec<Authority>, bool), TlsError> {
    let lives: Vec<Life> = kept.iter().map(Authority::life).collect();
    let verdict = judge(&lives, now);
    let uses = verdict.uses.iter();
    let pairs = kept.into_iter().zip(uses);
    let mut left: Vec<Authority> = pairs
        .filter(|(_, it)| **it != Use::Over)
        .map(|(authority, _)| authority)
        .collect();
    if verdict.make {
        left.push(Authority::make(now)?);
    }
    Ok((left, verdict.make))
}

fn standing(mut authorities: Vec<Authority>, now: u64) -> Result<Standing, CertificatesError> {
    let lives: Vec<Life> = authorities.iter().map(Authority::life).collect();
    let trusted = bundle(authorities.iter().map(Authority::certificate_pem));
    let uses = judge(&lives, now).uses;
    let place = uses.iter().position(|it| *it == Use::Signs);
    // One that was just made signs at least.
    let place = place.ok_or(CertificatesError::Busy)?;
    Ok(Standing {
        signer: Arc::new(authorities.swap_remove(place)),
        trusted,
    })
}

fn metadata(name: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/name", "dynamicswap"),
        ("app.kubernetes.io/managed-by", FIELD_MANAGER),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels.into()),
        ..ObjectMeta::default()
    }
}

/// The authorities that a Secret holds, the oldest first.
fn authorities_of(secret: &Secret) -> Result<Vec<Authority>, TlsError> {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let text = |key: &str| {
        let bytes = data.get(key);
        let bytes =
            bytes.ok_or_else(|| TlsError::nonsense(key, "it is missing beside its other part"))?;
        String::from_utf8(bytes.0.clone()).map_err(|error| TlsError::nonsense(key, error))
    };
    let mut authorities = Vec::new();
    for name in data.keys() {
        if let Some(stem) = name.strip_suffix(CERTIFICATE_END) {
            let authority = Authority::parse(&text(name)?, &text(&format!("{stem}{KEY_END}"))?)?;
            authorities.push(authority);
        }
    }
    authorities.sort_by_key(|authority| authority.life().made);
    Ok(authorities)
}

/// A Secret with these authorities, in the place of the one that was found.
fn secret_of(found: Option<Secret>, authorities: &[Authority]) -> Secret {
    let mut data = BTreeMap::new();
    for authority in authorities {
        let stem = format!("authority-{}", authority.life().made);
        let parts = [
            (CERTIFICATE_END, authority.certificate_pem()),
            (KEY_END, authority.key_pem()),
        ];
        for (end, text) in parts {
            let bytes = ByteString(text.as_bytes().to_vec());
            data.insert(format!("{stem}{end}"), bytes);
        }
    }
    let metadata = found.map_or_else(|| metadata(SECRET), |found| found.metadata);
    Secret {
        metadata,
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{AUTHORITY_ANNOUNCED_S, AUTHORITY_LIFE_S, AUTHORITY_RENEW_S};

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn secret_gives_back_the_authorities_that_were_put_into_it() {
        let (made, has_made) = settle(Vec::new(), NOW).expect("made");
        assert!(has_made);
        let secret = secret_of(None, &made);
        assert_eq!(secret.metadata.name.as_deref(), Some(SECRET));
        let read = authorities_of(&secret).expect("read");
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].certificate_pem(), made[0].certificate_pem());
        assert_eq!(read[0].life(), made[0].life());
    }

    #[test]
    fn half_an_authority_is_named() {
        let (made, _) = settle(Vec::new(), NOW).expect("made");
        let mut secret = secret_of(None, &made);
        let data = secret.data.as_mut().expect("data");
        data.retain(|name, _| name.ends_with(CERTIFICATE_END));
        let error = authorities_of(&secret).expect_err("no key").to_string();
        assert!(error.contains(".key"), "{error}");
    }

    #[test]
    fn two_are_trusted_while_one_takes_over_from_the_other() {
        let (first, _) = settle(Vec::new(), NOW).expect("made");
        let due = NOW + AUTHORITY_RENEW_S;
        let old = first[0].certificate_pem().to_owned();
        let (both, has_made) = settle(first, due).expect("made");
        assert!(has_made && both.len() == 2);
        let new = both[1].certificate_pem().to_owned();
        let secret = secret_of(None, &both);
        let at = |now| {
            let both = authorities_of(&secret).expect("read");
            standing(both, now).expect("one signs")
        };
        let during = at(due);
        assert_eq!(during.signer.certificate_pem(), old);
        assert!(during.trusted.contains(old.trim()) && during.trusted.contains(new.trim()));
        let after = at(due + AUTHORITY_ANNOUNCED_S);
        assert_eq!(after.signer.certificate_pem(), new);
        assert_eq!(after.trusted, during.trusted);
        let (left, has_made) = settle(both, NOW + AUTHORITY_LIFE_S).expect("settled");
        assert!(!has_made);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].certificate_pem(), new);
    }
}
