//! Enums whose variants have a word each, and types that are a text: in configurations, in JSON, in
//! counters.

/// Defines such an enum: all variants in `ALL`, the word of one, the variant of a word. `Display`
/// before it makes it shown by its word; `FromStr` makes it read from its word, too, in either case,
/// and may have what is said of other words.
macro_rules! words {
    (FromStr: $($enum:tt)+) => { $crate::proto::words::words! { FromStr("is not known"): $($enum)+ } };
    (FromStr($is_not:literal): $(#[$of:meta])* pub enum $name:ident { $($variants:tt)+ }) => {
        $crate::proto::words::words! { Display: $(#[$of])* pub enum $name { $($variants)+ } }

        impl std::str::FromStr for $name {
            type Err = $crate::proto::words::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let unknown = || $crate::proto::words::UnknownWord(text.to_owned(), $is_not);
                Self::of_word(text).ok_or_else(unknown)
            }
        }
    };
    (Display: $(#[$of:meta])* pub enum $name:ident { $($variants:tt)+ }) => {
        $crate::proto::words::words! { $(#[$of])* pub enum $name { $($variants)+ } }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
    ($(#[$of:meta])* pub enum $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$of])*
        pub enum $name {
            $($(#[$each])* $variant,)+
        }

        impl $name {
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The variant that a word stands for, in either case.
            pub fn of_word(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(word))
            }
        }
    };
}

pub(crate) use words;

/// A text that is none of the words that it could be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' {1}")]
pub struct UnknownWord(pub(crate) String, pub(crate) &'static str);
