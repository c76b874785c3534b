//! What a client reads of the configuration.

use anyhow::anyhow;

use super::tree::{self, Problems, Section};
use super::{Config, KEYS, Overrides, Secret, check_address, folder_of, lacks_variable, sections};

impl Config {
    /// What a client goes by. Variables that only the daemon has may stand in values that a client
    /// does not need, such as the password of a database: those are the defaults here.
    pub(crate) fn for_client(overrides: &Overrides) -> anyhow::Result<Self> {
        let error = match Self::load(overrides) {
            Err(error) if lacks_variable(&error) => error,
            loaded => return loaded,
        };
        let (path, _) = super::path(overrides)?;
        let text = tree::read_file(&path)?;
        let node = tree::parse(&text).map_err(|text| anyhow!(text))?;
        let problems = Problems::default();
        let top = Section::top(&node, &KEYS, &problems);
        let mut config = Self::defaults(folder_of(&path))?;
        config.tls = sections::tls(&top);
        config.api_key = overrides
            .api_key
            .clone()
            .or_else(|| top.text("api_key").map(|key| Secret(key.text)));
        let listen = overrides
            .addr
            .clone()
            .or_else(|| top.text("listen").map(|listen| listen.text));
        config.listen = listen.unwrap_or(config.listen);
        config.file = Some(path);
        // The reading of the whole file has told what is wrong, with key and line.
        if problems.text().is_some() || check_address(&config.listen).is_err() {
            return Err(error);
        }
        Ok(config)
    }
}
