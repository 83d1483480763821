//! The header fields that mean something here, found by looking at each field of a request once.

use hyper::HeaderMap;
use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING,
};

/// What a request says, beside its method and target.
pub(crate) struct Fields<'a> {
    pub(crate) host: Field<'a>,
    pub(crate) accept: Field<'a>,
    pub(crate) request_id: Field<'a>,
    pub(crate) traceparent: Field<'a>,
    pub(crate) content_length: Field<'a>,
    pub(crate) transfer_encoding: Field<'a>,
    pub(crate) expect: Field<'a>,
    pub(crate) connection: Field<'a>,
    /// A browser fetches ahead of a visit that may never come.
    pub(crate) prefetch: bool,
    /// A field is named nearly like one that announces content.
    pub(crate) look_alike: bool,
    all: &'a HeaderMap,
}

/// One field, which may be there more than once.
#[derive(Default)]
pub(crate) struct Field<'a> {
    pub(crate) first: Option<&'a HeaderValue>,
    /// There are further ones.
    pub(crate) repeated: bool,
}

impl<'a> Field<'a> {
    fn add(&mut self, value: &'a HeaderValue) {
        if self.first.is_none() {
            self.first = Some(value);
        } else {
            self.repeated = true;
        }
    }

    pub(crate) fn is_given(&self) -> bool {
        self.first.is_some()
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn of(all: &'a HeaderMap) -> Self {
        let mut fields = Self {
            host: Field::default(),
            accept: Field::default(),
            request_id: Field::default(),
            traceparent: Field::default(),
            content_length: Field::default(),
            transfer_encoding: Field::default(),
            expect: Field::default(),
            connection: Field::default(),
            prefetch: false,
            look_alike: false,
            all,
        };
        for (name, value) in all {
            if *name == HOST {
                fields.host.add(value);
            } else if *name == ACCEPT {
                fields.accept.add(value);
            } else if *name == CONNECTION {
                fields.connection.add(value);
            } else if *name == CONTENT_LENGTH {
                fields.content_length.add(value);
            } else if *name == TRANSFER_ENCODING {
                fields.transfer_encoding.add(value);
            } else if *name == EXPECT {
                fields.expect.add(value);
            } else {
                match name.as_str() {
                    "x-request-id" => fields.request_id.add(value),
                    "traceparent" => fields.traceparent.add(value),
                    "sec-purpose" => fields.prefetch |= value.as_bytes().starts_with(b"prefetch"),
                    _ => fields.look_alike |= announces_content_nearly(name),
                }
            }
        }
        fields
    }

    /// Whether `Connection` is there once and says `close` alone.
    pub(crate) fn says_close(&self) -> bool {
        let says = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
        !self.connection.repeated && self.connection.first.is_some_and(says)
    }

    /// The values of all `Accept` fields.
    pub(crate) fn accepts(&self) -> impl Iterator<Item = &'a HeaderValue> {
        self.all.get_all(ACCEPT).iter()
    }
}

/// Whether this, which is neither, reads like `Content-Length` or `Transfer-Encoding` once all but
/// letters and digits is left out.
fn announces_content_nearly(name: &HeaderName) -> bool {
    const SHORTER: &[u8; 13] = b"contentlength";
    let letters = || name.as_str().bytes().filter(u8::is_ascii_alphanumeric);
    name.as_str().len() >= SHORTER.len()
        && (letters().eq(*SHORTER) || letters().eq(*b"transferencoding"))
}
