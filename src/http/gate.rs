//! Who may ask: no web page, whatever it can make a browser send.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::node::api::Failure;

/// The most that a request may carry: paths, links and addresses.
pub const MAX_REQUEST: usize = 1 << 20;

/// The names by which the control socket's host may be called (there is no DNS behind it).
const HOSTS: [&str; 2] = ["dunlin", "localhost"];

/// Refuses what a browser sends for a page (`Origin`) and requests to a host of another name (DNS rebinding).
pub async fn gate(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) {
        return refused(StatusCode::FORBIDDEN, "requests from web pages (with an Origin header) are refused");
    }
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    if !host.is_some_and(|h| HOSTS.contains(&h)) {
        return refused(StatusCode::FORBIDDEN, "the Host header must be `localhost`");
    }
    next.run(request).await
}

/// A `Failure` as an answer.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    failure: Failure,
}

impl Refusal {
    /// The node is ending.
    pub fn unavailable(failure: Failure) -> Refusal {
        Refusal { status: StatusCode::SERVICE_UNAVAILABLE, failure }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let status = if failure.usage { StatusCode::BAD_REQUEST } else { StatusCode::INTERNAL_SERVER_ERROR };
        Refusal { status, failure }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.failure)).into_response()
    }
}

pub fn refused(status: StatusCode, message: &str) -> Response {
    (status, Json(Failure { message: message.to_owned(), usage: true })).into_response()
}

/// A request's JSON body.
pub struct Posted<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Posted<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Posted<T>, Response> {
        // A browser cannot send this type across origins without asking first.
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        if kind.split(';').next().map(str::trim) != Some("application/json") {
            return Err(refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must be JSON (Content-Type: application/json)",
            ));
        }
        let body = axum::body::to_bytes(request.into_body(), MAX_REQUEST)
            .await
            .map_err(|_| refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is above 1 MiB or broke off"))?;
        serde_json::from_slice(&body)
            .map(Posted)
            .map_err(|e| refused(StatusCode::BAD_REQUEST, &format!("the body is not what is asked for: {e}")))
    }
}
