//! Texts that are almost right: random bytes alone never get past the first
//! check of a parser.

use std::ops::Range;

/// What a target is made of.
pub struct Material {
    /// Texts that are right, or wrong in an interesting way.
    pub examples: &'static [&'static str],
    /// What may stand in the place of another word.
    pub words: &'static [&'static str],
}

impl Material {
    /// Gives the texts that `bytes` stand for: an example with changes, and the
    /// bytes themselves where they are text.
    pub fn texts(&self, bytes: &[u8]) -> impl Iterator<Item = String> {
        let plain = std::str::from_utf8(bytes).ok().map(ToOwned::to_owned);
        [Some(self.mutated(bytes)), plain].into_iter().flatten()
    }

    fn mutated(&self, bytes: &[u8]) -> String {
        let mut choices = Choices(bytes.iter());
        let mut text = choices.of(self.examples).to_owned();
        // None at all is a change too.
        for _ in 0..choices.below(8) {
            self.change(&mut text, &mut choices);
        }
        text
    }

    fn change(&self, text: &mut String, choices: &mut Choices<'_>) {
        let at = text.floor_char_boundary(choices.below(text.len() + 1));
        match choices.below(6) {
            0 | 1 => text.replace_range(word_at(text, at), choices.of(self.words)),
            2 => text.insert_str(at, choices.of(self.words)),
            3 => text.insert(at, char::from(choices.byte())),
            4 => {
                let end = text.ceil_char_boundary(at + choices.below(4));
                text.replace_range(at..end, "");
            }
            _ => {
                let line = line_at(text, at);
                let copy = text[line.clone()].to_owned();
                text.insert_str(line.start, &copy);
            }
        }
    }
}

/// The word around a place, or nothing there.
fn word_at(text: &str, at: usize) -> Range<usize> {
    let ends = |c: char| c.is_whitespace() || "[]{},\"'".contains(c);
    let before = text[..at].char_indices().rfind(|(_, c)| ends(*c));
    let start = before.map_or(0, |(before, c)| before + c.len_utf8());
    let end = text[at..].find(ends).map_or(text.len(), |after| at + after);
    start..end
}

/// The line around a place, with its end.
fn line_at(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |before| before + 1);
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end + 1);
    start..end
}

/// Decisions read from bytes; when they are used up, always the first one.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    fn below(&mut self, limit: usize) -> usize {
        let number = u16::from_le_bytes([self.byte(), self.byte()]);
        usize::from(number) % limit.max(1)
    }

    fn of<'t>(&mut self, all: &[&'t str]) -> &'t str {
        all[self.below(all.len())]
    }
}
