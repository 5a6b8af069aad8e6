//! Texts cut to what their reader takes: the API server refuses an object of which one
//! text is too long, and people read no more of it. Pure.

/// The longest `message` of a condition.
pub const CONDITION_MESSAGE: usize = 32_768;
/// The longest `note` of an Event.
pub const EVENT_NOTE: usize = 1024;
/// The longest `reportingInstance` of an Event.
pub const EVENT_INSTANCE: usize = 128;
/// How much of what a Service says is quoted.
const QUOTE: usize = 64;
/// How many of a list are named.
const NAMED: usize = 5;
const ELLIPSIS: &str = "…";

/// The text, or its beginning and an ellipsis, in at most `limit` bytes.
pub fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let room = limit.saturating_sub(ELLIPSIS.len());
        text.truncate(text.floor_char_boundary(room));
        text += ELLIPSIS;
    }
    text
}

/// In quotes; of a long text the beginning, and how much follows.
pub fn quote(text: &str) -> String {
    let end = text.floor_char_boundary(QUOTE);
    match text.get(end..) {
        Some("") | None => format!("{text:?}"),
        Some(rest) => format!("{:?} … and {} more bytes", &text[..end], rest.len()),
    }
}

/// As a comma list; of a long one the first, and how many follow.
pub fn list(names: &[&str]) -> String {
    match names.get(NAMED..) {
        Some(rest) if !rest.is_empty() => {
            format!("{} … and {} more", names[..NAMED].join(", "), rest.len())
        }
        Some(_) | None => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let text = cut("ä".repeat(600) + "x", EVENT_NOTE);
        assert!(text.len() <= EVENT_NOTE && text.ends_with("ä…"), "{text}");
        assert_eq!(cut("short".into(), EVENT_NOTE), "short");
        let full = "x".repeat(EVENT_NOTE);
        assert_eq!(cut(full.clone(), EVENT_NOTE), full);
    }

    #[test]
    fn a_quote_and_a_list_say_how_much_they_leave_out() {
        assert_eq!(quote("a\"b"), "\"a\\\"b\"");
        let long = "ä".repeat(100_000);
        let quoted = quote(&long);
        assert!(
            quoted.len() < 200 && quoted.ends_with("and 199936 more bytes"),
            "{quoted}"
        );
        assert_eq!(list(&["a", "b"]), "a, b");
        let many = ["m"; 9];
        assert_eq!(list(&many), "m, m, m, m, m … and 4 more");
    }
}
