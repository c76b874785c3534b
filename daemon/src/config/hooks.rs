//! The section `hooks`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use ledger::bridge::hook::{HookFailure, Schedule};
use ledger::webhook::{Format, Network, SigningKey, Target, WebhookConfig};
use ledger::{Change, Mutation, MutationKind, Pairs, PipelineId, ReadOptions, StoreName};

use super::sections::{store_name, understood};
use super::tree::{Scalar, Section};
use super::{Secret, duration};

/// The most entries of one request of the form `compat`, and what others have unless told otherwise.
const BATCH: usize = 500;
/// The most that can be asked for.
const LARGEST: usize = 10_000;
/// How many attempts there are where nothing is said.
const ATTEMPTS: u32 = 5;
/// How many deliveries are under way at a time.
const CONCURRENCY: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(15);

const KEYS: [&str; 21] = [
    "name",
    "store",
    "stream",
    "url",
    "format",
    "secret",
    "secrets",
    "kinds",
    "filter",
    "headers",
    "batch",
    "timeout",
    "concurrency",
    "rate_limit",
    "retry_schedule",
    "max_retries",
    "on_failure",
    "allow_networks",
    "interval",
    "ca",
    "insecure_skip_verify",
];

/// A webhook.
#[derive(Debug, Clone)]
pub(crate) struct HookConfig {
    pub(crate) name: String,
    pub(crate) store: StoreName,
    /// A pattern; empty for all streams.
    pub(crate) stream: String,
    matcher: Option<GlobMatcher>,
    pub(crate) target: Target,
    pub(crate) format: Format,
    pub(crate) secrets: Vec<Secret>,
    /// Empty for appends only.
    pub(crate) kinds: BTreeSet<MutationKind>,
    pub(crate) filter: ReadOptions,
    pub(crate) headers: Vec<(String, Secret)>,
    pub(crate) batch: usize,
    pub(crate) wait: Duration,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: usize,
    pub(crate) rate_limit: Option<f64>,
    pub(crate) retry_schedule: Option<Vec<Duration>>,
    pub(crate) max_retries: u32,
    pub(crate) on_failure: HookFailure,
    pub(crate) allow_networks: Vec<Network>,
    /// Kept: deliveries are pushed.
    pub(crate) interval: Option<Duration>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) insecure_skip_verify: bool,
    /// Everything above as it was written, secrets included, to see what a reload changes.
    pub(crate) written: Secret,
}

/// How the names begin that the state, the leases and the numbers of hooks go by; no bridge's does.
pub(crate) const PREFIX: &str = "hook:";

/// The name that a hook's state, lease and numbers go by.
pub(crate) fn pipeline(hook: &str) -> ledger::Result<PipelineId> {
    PipelineId::new(format!("{PREFIX}{hook}"))
}

impl HookConfig {
    /// See [`pipeline`].
    pub(crate) fn pipeline(&self) -> ledger::Result<PipelineId> {
        pipeline(&self.name)
    }

    /// Whether a change is sent.
    pub(crate) fn keeps(&self, change: &Change) -> bool {
        let kind = change.mutation.kind();
        let named = |matcher: &GlobMatcher| matcher.is_match(change.stream.name.as_str());
        if !self.kinds.contains(&kind) || !self.matcher.as_ref().is_none_or(named) {
            return false;
        }
        match &change.mutation {
            Mutation::Append { entry, .. } => self.filter.matches(entry),
            _ => true,
        }
    }

    /// When what failed is tried again.
    pub(crate) fn schedule(&self) -> Schedule {
        if let Some(waits) = &self.retry_schedule {
            return Schedule::new(waits.clone());
        }
        if self.format == Format::Compat {
            return Schedule::doubling(self.attempts());
        }
        let mut waits = Schedule::standard().waits().to_vec();
        if self.max_retries > 0 {
            waits.truncate(usize::try_from(self.max_retries - 1).unwrap_or(usize::MAX));
        }
        Schedule::new(waits)
    }

    fn attempts(&self) -> u32 {
        match self.max_retries {
            0 => ATTEMPTS,
            attempts => attempts,
        }
    }

    /// The keys of the configuration's secrets.
    pub(crate) fn keys(&self) -> ledger::Result<Vec<SigningKey>> {
        let keys = self.secrets.iter();
        keys.map(|secret| key(self.format, secret.expose()))
            .collect()
    }

    /// How the endpoint is spoken to. Reads the file of `ca`.
    pub(crate) fn endpoint(&self) -> ledger::Result<WebhookConfig> {
        let mut config = WebhookConfig::new(self.target.clone());
        config.format = self.format;
        config.keys = self.keys()?;
        config.timeout = self.timeout;
        config.insecure = self.insecure_skip_verify;
        config.permanent_errors = self.format == Format::Compat;
        for (name, value) in &self.headers {
            config.header(name, value.expose())?;
        }
        if let Some(path) = &self.ca {
            let pem = std::fs::read(path).map_err(|error| {
                let what = format!("ca: read {}", path.display());
                ledger::Error::invalid("open hook", what).with_source(error)
            })?;
            config.ca = Some(pem);
        }
        Ok(config)
    }
}

/// The key of a secret as the form of bodies has it.
pub(crate) fn key(format: Format, secret: &str) -> ledger::Result<SigningKey> {
    match format {
        Format::Compat => Ok(SigningKey::shared(secret.as_bytes())),
        _ => SigningKey::parse(secret),
    }
}

/// Reads the section.
pub(super) fn read(top: &Section<'_>) -> Vec<HookConfig> {
    let mut names = BTreeSet::new();
    let sections = top.sections("hooks", &KEYS);
    let hooks = sections.iter().filter_map(|section| {
        let hook = hook(section);
        if let Some(name) = section.text("name")
            && !names.insert(name.text.clone())
        {
            section.refuse(&name, "is the name of another hook");
        }
        hook
    });
    hooks.collect()
}

#[allow(clippy::too_many_lines, reason = "one line or two a key")]
fn hook(section: &Section<'_>) -> Option<HookConfig> {
    let name = section.required("name");
    let store = section.required("store");
    let url = section.required("url");
    if let Some(name) = &name {
        understood(
            section,
            name,
            PipelineId::new(format!("hook:{}", name.text)),
        );
    }
    let store = store.and_then(|store| store_name(section, &store));
    let stream = section.text("stream");
    let matcher = stream.as_ref().map(|stream| matcher(section, stream));
    let allowed = section.scalars("allow_networks");
    let allow_networks: Vec<Network> = allowed
        .iter()
        .filter_map(|network| understood(section, network, network.text.parse()))
        .collect();
    let target = url
        .as_ref()
        .and_then(|url| understood(section, url, Target::parse(&url.text, &allow_networks)));
    let (batch, wait) = batch(section);
    let format = format(section, batch)?;
    let secrets = secrets(section, format);
    let kinds = kinds(section, format);
    let filter = filter(section);
    let headers = headers(section, target.as_ref());
    let schedule = schedule(section);
    let number = |key: &str, most: u32| {
        let rule = format!("must be a whole number from 0 to {most}");
        section.parsed(key, &rule, |text| text.parse().ok().filter(|n| *n <= most))
    };
    let max_retries = number("max_retries", 1_000_000).unwrap_or(0);
    let concurrency = section.parsed("concurrency", "must be from 1 to 1000", |text| {
        text.parse().ok().filter(|n| (1..=1_000).contains(n))
    });
    let rate_limit = section.parsed(
        "rate_limit",
        "must be how many requests a second there may be, above 0",
        |text| {
            text.parse::<f64>()
                .ok()
                .filter(|n| *n > 0.0 && n.is_finite())
        },
    );
    let policy = section.text("on_failure");
    let on_failure = match &policy {
        Some(policy) => understood(section, policy, policy.text.parse())?,
        None => HookFailure::default(),
    };
    let interval = section.duration("interval");
    let timeout = section.duration("timeout");
    let ca = section.text("ca").map(|path| PathBuf::from(path.text));
    let insecure_skip_verify = section.switch("insecure_skip_verify");
    if let (Some(_), true, Some(scalar)) = (&ca, insecure_skip_verify, section.text("ca")) {
        section.refuse(
            &scalar,
            "cannot be given with insecure_skip_verify, which trusts everybody",
        );
    }
    let plain: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name, value.expose()))
        .collect();
    let told: Vec<_> = secrets.iter().map(Secret::expose).collect();
    let url = url?;
    let written = Secret::new(format!(
        "{:?}",
        (
            (&url.text, format, told, &kinds, &filter, plain, batch, wait),
            (
                timeout,
                concurrency,
                rate_limit,
                &schedule,
                max_retries,
                on_failure
            ),
            (&allow_networks, &ca, insecure_skip_verify, &stream, &store),
        )
    ));
    Some(HookConfig {
        name: name?.text,
        store: store?,
        stream: stream.map(|stream| stream.text).unwrap_or_default(),
        matcher: match matcher {
            Some(matcher) => Some(matcher?),
            None => None,
        },
        target: target?,
        format,
        secrets,
        kinds,
        filter,
        headers,
        batch,
        wait,
        timeout: timeout.unwrap_or(TIMEOUT),
        concurrency: concurrency.unwrap_or(CONCURRENCY),
        rate_limit,
        retry_schedule: schedule,
        max_retries,
        on_failure,
        allow_networks,
        interval,
        ca,
        insecure_skip_verify,
        written,
    })
}

fn matcher(section: &Section<'_>, pattern: &Scalar) -> Option<GlobMatcher> {
    match GlobBuilder::new(&pattern.text)
        .backslash_escape(true)
        .build()
    {
        Ok(glob) => Some(glob.compile_matcher()),
        Err(error) => {
            section.refuse(pattern, format!("is no pattern: {}", error.kind()));
            None
        }
    }
}

/// The form of bodies. Events go one by one unless more are asked for.
fn format(section: &Section<'_>, batch: usize) -> Option<Format> {
    let asked = section.text("format");
    let format = match &asked {
        Some(format) => understood(section, format, format.text.parse())?,
        None => Format::Compat,
    };
    Some(match format {
        Format::CloudEvents { .. } => Format::CloudEvents { batched: batch > 1 },
        format => format,
    })
}

fn batch(section: &Section<'_>) -> (usize, Duration) {
    let batch = section.section("batch", &["max", "wait"]);
    let events = section
        .text("format")
        .is_some_and(|format| format.text == "cloudevents");
    let compat = section
        .text("format")
        .is_none_or(|format| format.text == "compat");
    let most = if compat { BATCH } else { LARGEST };
    let rule = format!("must be a whole number from 1 to {most}");
    let max = batch.parsed("max", &rule, |text| {
        text.parse().ok().filter(|n| (1..=most).contains(n))
    });
    let max = max.unwrap_or(if events { 1 } else { BATCH });
    (max, batch.duration("wait").unwrap_or_default())
}

fn secrets(section: &Section<'_>, format: Format) -> Vec<Secret> {
    let mut given = section.scalars("secrets");
    if let Some(secret) = section.text("secret") {
        if !given.is_empty() {
            section.refuse(&secret, "cannot be given with secrets: put it there");
        }
        given.insert(0, secret);
    }
    if format == Format::Compat
        && let Some(second) = given.get(1)
    {
        section.refuse(
            second,
            "format compat has one secret; standard and cloudevents have several",
        );
    }
    for secret in &given {
        understood(section, secret, key(format, &secret.text));
    }
    let texts = given.into_iter().map(|secret| Secret::new(secret.text));
    texts.collect()
}

fn kinds(section: &Section<'_>, format: Format) -> BTreeSet<MutationKind> {
    const RULE: &str = "must be one of append, set_tags, set_annotations, trim, rename";
    let given = section.scalars("kinds");
    if given.is_empty() {
        return BTreeSet::from([MutationKind::Append]);
    }
    let known = given.iter().filter_map(|kind| {
        let append = (kind.text == "append").then_some(MutationKind::Append);
        let found = append.or_else(|| kind.text.parse().ok());
        if found.is_none() {
            section.refuse(kind, RULE);
        } else if format == Format::Compat && append.is_none() {
            section.refuse(
                kind,
                "format compat has appends only; standard and cloudevents have all",
            );
        }
        found
    });
    known.collect()
}

fn filter(section: &Section<'_>) -> ReadOptions {
    let filter = section.section("filter", &["tags", "metadata", "order_key"]);
    let tags = filter.scalars("tags").into_iter();
    let metadata = filter.pairs("metadata").into_iter();
    ReadOptions {
        all_tags: tags.map(|tag| tag.text).collect(),
        metadata: metadata
            .map(|(key, value)| (key, value.text))
            .collect::<Pairs>(),
        order_key: filter.text("order_key").map(|key| key.text),
        ..ReadOptions::all()
    }
}

fn headers(section: &Section<'_>, target: Option<&Target>) -> Vec<(String, Secret)> {
    let given = section.pairs("headers");
    if let Some(target) = target {
        // Tried here, so that what is wrong is told with its line.
        let mut tried = WebhookConfig::new(target.clone());
        for (name, value) in &given {
            understood(section, value, tried.header(name, &value.text));
        }
    }
    let texts = given.into_iter();
    texts
        .map(|(name, value)| (name, Secret::new(value.text)))
        .collect()
}

fn schedule(section: &Section<'_>) -> Option<Vec<Duration>> {
    let given = section.scalars("retry_schedule");
    if given.is_empty() {
        return None;
    }
    let waits = given.iter().filter_map(|wait| {
        let read = duration::parse(&wait.text);
        if read.is_none() {
            section.refuse(wait, duration::RULE);
        }
        read
    });
    Some(waits.collect())
}
