//! The sizes of a benchmark, from flags and from the environment.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::Outcome;

/// A size that can be set: its flag, its default, what it is.
pub(crate) type Known = (&'static str, &'static str, &'static str);

/// The sizes of one run.
pub(crate) struct Arguments {
    bench: &'static str,
    values: BTreeMap<&'static str, String>,
    set: Vec<String>,
}

impl Arguments {
    /// Reads `--flag value` and `--flag=value`, then `LEDGER_BENCH_<BENCH>_<FLAG>`, then takes the
    /// default. An unknown flag is an error that lists the known ones.
    pub(crate) fn read(bench: &'static str, known: &[Known]) -> Outcome<Self> {
        let mut values = BTreeMap::new();
        let mut set = Vec::new();
        for (flag, default, _) in known {
            let variable = format!("LEDGER_BENCH_{bench}_{flag}").to_ascii_uppercase();
            let given = std::env::var(variable.replace('-', "_")).ok();
            if let Some(value) = &given {
                set.push(format!("--{flag} {value}"));
            }
            values.insert(*flag, given.unwrap_or_else(|| (*default).to_owned()));
        }
        let mut rest = std::env::args().skip(1);
        while let Some(argument) = rest.next() {
            // Cargo tells every benchmark that it is one.
            if argument == "--bench" {
                continue;
            }
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let found = known.iter().find(|(name, ..)| flag == format!("--{name}"));
            let Some((name, ..)) = found else {
                return Err(usage(bench, &flag, known).into());
            };
            let value = value.or_else(|| rest.next()).ok_or_else(|| {
                let what = format!("{flag} needs a value");
                std::io::Error::new(std::io::ErrorKind::InvalidInput, what)
            })?;
            set.push(format!("{flag} {value}"));
            values.insert(*name, value);
        }
        Ok(Self { bench, values, set })
    }

    /// The value of a flag.
    pub(crate) fn get<T: FromStr>(&self, flag: &str) -> Outcome<T> {
        let text = self.text(flag);
        text.parse()
            .map_err(|_| format!("--{flag}: {text:?} is not what it takes").into())
    }

    /// The values of a flag that takes several, separated by commas.
    pub(crate) fn list<T: FromStr>(&self, flag: &str) -> Outcome<Vec<T>> {
        let parts = self.text(flag).split(',').map(str::trim);
        parts
            .map(|part| {
                part.parse()
                    .map_err(|_| format!("--{flag}: {part:?} is not what it takes").into())
            })
            .collect()
    }

    fn text(&self, flag: &str) -> &str {
        self.values.get(flag).map_or("", String::as_str)
    }

    /// The command that measures the same again.
    pub(crate) fn command(&self) -> String {
        let Self { bench, set, .. } = self;
        let flags = if set.is_empty() {
            String::new()
        } else {
            format!(" -- {}", set.join(" "))
        };
        format!("cargo bench --all-features --bench {bench}{flags}")
    }
}

fn usage(bench: &str, flag: &str, known: &[Known]) -> String {
    let line =
        |(flag, default, meaning): &Known| format!("  --{flag} (default {default}): {meaning}");
    let lines = known.iter().map(line).collect::<Vec<_>>().join("\n");
    format!("{flag} is no argument of the benchmark {bench}; known are\n{lines}")
}
