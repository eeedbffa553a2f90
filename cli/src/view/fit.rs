//! Making things fit: texts into columns, sections into lines.
//!
//! Pure: knows neither what it fits nor where that is shown.

/// `text`, or as much of it as fits into `columns`, with a mark where it ends.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// `text` in lines of at most `columns`, broken between words; what is beyond `lines_max` lines is
/// cut.
#[must_use]
pub fn wrap(text: &str, columns: usize, lines_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.peek() {
        let has_room = |line: &String| line.chars().count() + 1 + word.chars().count() <= columns;
        let count = lines.len();
        match lines.last_mut().filter(|line| has_room(line)) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None if count < lines_max => lines.push(cut(word, columns)),
            None => break,
        }
        words.next();
    }
    if let (Some(_), Some(last)) = (words.peek(), lines.last_mut()) {
        *last = cut(&format!("{last} …"), columns);
    }
    lines
}

/// One section of a screen, below a line of its own with its title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Lines that it has.
    pub wanted: usize,
    /// Lines that it is left in any case, if it has them.
    pub least: usize,
}

/// Lines that each section gets of `room`: all that it has, and where that is too much, the last
/// sections give first.
#[must_use]
pub fn share<const N: usize>(room: usize, sections: [Section; N]) -> [usize; N] {
    let mut given = sections.map(|section| section.wanted);
    for place in (0..N).rev() {
        let titles = given.iter().filter(|lines| **lines > 0).count();
        let over = (given.iter().sum::<usize>() + titles).saturating_sub(room);
        let least = sections[place].least.min(given[place]);
        given[place] = given[place].saturating_sub(over).max(least);
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_fits_stays_and_longer_is_cut_with_a_mark() {
        assert_eq!(cut("donor", 5), "donor");
        assert_eq!(cut("donor", 4), "don…");
        assert_eq!(cut("a bc", 3), "a…");
        assert_eq!(cut("äöü", 3), "äöü");
    }

    #[test]
    fn lines_break_between_words_and_the_last_one_says_that_it_is_cut() {
        assert_eq!(wrap("one two three", 7, 9), ["one two", "three"]);
        assert_eq!(wrap("one two three", 7, 1), ["one tw…"]);
        assert_eq!(wrap("one two three", 9, 1), ["one two …"]);
        assert_eq!(wrap("incarnation", 6, 2), ["incar…"]);
        assert_eq!(wrap("", 6, 2), Vec::<String>::new());
        for columns in 1..30 {
            let lines = wrap("waits with 3 sets: no donor fits", columns, 3);
            let wide = lines.iter().any(|line| line.chars().count() > columns);
            assert!(!wide && lines.len() <= 3, "{lines:?}");
        }
    }

    #[test]
    fn sections_give_from_the_last_on_and_keep_their_least() {
        let section = |wanted, least| Section { wanted, least };
        let sections = [section(2, 1), section(4, 2), section(5, 1)];
        assert_eq!(share(20, sections), [2, 4, 5]);
        assert_eq!(share(14, sections), [2, 4, 5]);
        assert_eq!(share(12, sections), [2, 4, 3]);
        assert_eq!(share(9, sections), [2, 3, 1]);
        assert_eq!(share(7, sections), [1, 2, 1]);
        assert_eq!(share(0, sections), [1, 2, 1]);
        assert_eq!(share(4, [section(0, 2), section(9, 1)]), [0, 3]);
    }
}
