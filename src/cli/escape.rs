//! Text of strangers (names, links, agents) made harmless for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// True for what a terminal would act upon or show as something else: control characters (ANSI escapes begin
/// with one), line separators, and what reorders or hides text.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` with harmful characters written as `\u{..}` (and `\n`, `\t`, `\r`).
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// JSON whose strings keep their meaning, with harmful characters as `\uXXXX`.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_harmful) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_harmful(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ansi_and_bidi_do_not_reach_the_terminal() {
        assert_eq!(escape("a\x1b[2J"), "a\\u{1b}[2J");
        assert_eq!(escape("exe.\u{202e}fdp"), "exe.\\u{202e}fdp");
        assert_eq!(escape("\u{9b}31m\u{7f}"), "\\u{9b}31m\\u{7f}");
        assert_eq!(escape("two\nlines\r\t"), "two\\nlines\\r\\t");
        assert_eq!(escape("zero\u{200b}width\u{feff}"), "zero\\u{200b}width\\u{feff}");
        assert_eq!(escape("Grüße, 日本語 🐦 \\"), "Grüße, 日本語 🐦 \\");
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text in "\\PC*|.*") {
            prop_assert!(!escape(&text).chars().any(is_harmful));
        }

        #[test]
        fn json_means_the_same_after(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let escaped = escape_json(&json);
            prop_assert!(!escaped.chars().any(is_harmful));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
