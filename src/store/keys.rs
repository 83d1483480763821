//! The keys of one counter.

use crate::store::visitor_session::SessionId;

/// All share a hash slot, so that Redis Cluster runs the script too.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) counter: String,
    /// Each reset begins another epoch, so that a process can tell a reset from a loss of data.
    pub(super) epoch: String,
    /// This process's last batch.
    pub(super) producer: String,
    /// What the keys of visitors' sessions begin with.
    sessions: String,
}

impl Keys {
    /// Draws a new producer id, by which Redis tells the batches of this process from others.
    pub(super) fn new(counter: &str) -> Result<Self, getrandom::Error> {
        // The slot is that of the text in the first braces, when there is any (Cluster spec).
        let stem = match counter.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
            Some((tag, _)) if !tag.is_empty() => counter.to_owned(),
            _ => format!("{{{counter}}}"),
        };
        let id = u128::from(getrandom::u64()?) << 64 | u128::from(getrandom::u64()?);
        Ok(Self {
            counter: counter.to_owned(),
            epoch: format!("{stem}:epoch"),
            producer: format!("{stem}:producer:{id:032x}"),
            sessions: format!("{stem}:session:"),
        })
    }

    /// The key of a visitor's session.
    pub(super) fn session(&self, id: SessionId) -> String {
        format!("{}{id}", self.sessions)
    }

    /// The key of what `mail-report` keeps. It begins as the epoch's does.
    pub(super) fn reports(&self) -> String {
        format!("{}reports", self.epoch.trim_end_matches("epoch"))
    }
}

#[cfg(test)]
mod tests {
    use super::Keys;

    #[test]
    fn all_keys_have_the_tag_of_the_counter() {
        for (counter, stem) in [("visits", "{visits}"), ("a{b}c", "a{b}c"), ("a{}b", "{a{}b}")] {
            let keys = Keys::new(counter).expect("random numbers");
            assert_eq!(keys.epoch, format!("{stem}:epoch"));
            assert!(keys.producer.starts_with(&format!("{stem}:producer:")));
            assert_eq!(keys.reports(), format!("{stem}:reports"));
        }
    }
}
