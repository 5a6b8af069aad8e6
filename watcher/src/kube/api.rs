//! The calls to the API server about one Service, each with a deadline.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http_body_util::BodyExt;
use kube::{
    Client, Error, Resource,
    api::{Patch, PatchParams},
    client::Body,
    core::{Request, Status},
};
use serde_json::Value;
use tracing::{Instrument, debug_span, field::Empty};

use crate::{
    excerpt,
    kube::{key::Key, service::Service},
    metrics::{ApiCall, Metrics},
    status::MANAGER,
};

const DEADLINE: Duration = Duration::from_secs(10);
/// Longer than that nobody waits, whatever the API server asks for.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(300);
const PATCH: &str = "patch_status";

/// Reads and writes Services.
#[derive(Clone)]
pub struct ServiceApi {
    client: Client,
    metrics: Metrics,
}

/// Why a call failed, by what is to be done about it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The Service is gone, or not as it was last told: the watch tells of it.
    #[error("the Service changed or is gone")]
    Gone,
    /// The Service has changed since it was looked at.
    #[error("the Service has changed")]
    Outdated,
    /// Something refuses what was written: an admission policy or webhook, or the API
    /// server itself.
    #[error("{0}")]
    Rejected(String),
    /// The watcher's account has no right to write.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// Nothing is known: the API server is away, slow or overloaded.
    #[error("{message}")]
    Unavailable {
        /// What happened.
        message: String,
        /// For how long the API server asked to be left alone.
        retry_after: Option<Duration>,
    },
}

impl ServiceApi {
    /// Calls through this client.
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics }
    }

    /// Strategic merge patch on `/status`.
    ///
    /// A server-side apply would refuse what another manager owns by itself, and asks more of
    /// the API server for it (`lb-bench cluster`: 0.68 to 0.87 of the writes per second of a
    /// merge patch, a strategic merge 0.74 to 1.02). The owners are in the object that the
    /// body was made from, and the version in the body tells whether they still are: see
    /// [`status::other_owners`](crate::status::other_owners).
    pub async fn patch_status(&self, key: &Key, body: &Value) -> Result<Service, ApiError> {
        let start = Instant::now();
        let span = debug_span!(
            "api_call",
            otel.name = PATCH,
            otel.kind = "client",
            http.response.status_code = Empty
        );
        let call = self.patch(key, body).instrument(span.clone());
        let result = tokio::time::timeout(DEADLINE, call).await;
        let code = match &result {
            Ok(Ok(answer)) => answer.status,
            Ok(Err(_)) | Err(_) => 0,
        };
        span.record("http.response.status_code", code);
        let counted = ApiCall { kind: PATCH, code };
        self.metrics.api_call(counted, start.elapsed());
        match result {
            Ok(Ok(answer)) => answer.read(),
            Ok(Err(error)) => Err(unavailable(chain(&error))),
            Err(_) => Err(unavailable(format!(
                "no answer within {} s",
                DEADLINE.as_secs()
            ))),
        }
    }

    async fn patch(&self, key: &Key, body: &Value) -> Result<Answer, Error> {
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Strategic(body);
        let services = Request::new(Service::url_path(&(), Some(&key.namespace)));
        let request = services.patch_subresource("status", &key.name, &params, &patch);
        let mut request = request.map_err(Error::BuildRequest)?;
        request.extensions_mut().insert(PATCH);
        let answer = self.client.send(request.map(Body::from)).await?;
        let retry_after = answer.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Answer {
            status: answer.status().as_u16(),
            retry_after: retry_after.map(Duration::from_secs),
            body: answer.into_body().collect().await?.to_bytes(),
        })
    }
}

/// What the API server answered.
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Answer {
    fn read(self) -> Result<Service, ApiError> {
        if (200..300).contains(&self.status) {
            let read = serde_json::from_slice(&self.body);
            return read.map_err(|error| unavailable(error.to_string()));
        }
        // Not each is a Status: a proxy, or an API server that has too much to do,
        // answers in plain text.
        let status = serde_json::from_slice(&self.body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&self.body);
            Status::failure(&excerpt::quote(text.trim()), "").with_code(self.status)
        });
        Err(classify(&status, self.retry_after))
    }
}

fn unavailable(message: String) -> ApiError {
    ApiError::Unavailable {
        message,
        retry_after: None,
    }
}

/// The words of an error and of what caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let words: Vec<String> = causes.map(ToString::to_string).collect();
    words.join(": ")
}

/// Of a Service that is not, or no more, of type LoadBalancer.
const ONLY_FOR_LOAD_BALANCERS: (&str, &str) =
    ("status.loadBalancer.ingress", "FieldValueForbidden");

fn classify(status: &Status, retry_after: Option<Duration>) -> ApiError {
    let details = status.details.as_ref();
    let causes = details.map_or(&[][..], |details| &details.causes);
    match status.code {
        404 => ApiError::Gone,
        // The API server's own, about the Service: it has another version by now, or
        // another uid. What says 409 otherwise, a webhook, does not name the Service.
        409 if details.is_some_and(|details| details.kind == "services") => ApiError::Outdated,
        422 if causes.iter().any(|cause| {
            cause.field == "metadata.uid"
                || (cause.field.as_str(), cause.reason.as_str()) == ONLY_FOR_LOAD_BALANCERS
        }) =>
        {
            ApiError::Gone
        }
        // An admission policy and a webhook say 403 as well, and neither of them this.
        403 if status
            .message
            .contains(r#" cannot patch resource "services/status""#) =>
        {
            ApiError::Forbidden(status.message.clone())
        }
        429 | 500.. => {
            let told = details.map(|details| details.retry_after_seconds);
            let told = told.filter(|seconds| *seconds > 0);
            let told = told.map(|seconds| Duration::from_secs(seconds.into()));
            ApiError::Unavailable {
                message: status.message.clone(),
                retry_after: retry_after
                    .or(told)
                    .map(|after| after.min(RETRY_AFTER_LIMIT)),
            }
        }
        401 | 408 => unavailable(status.message.clone()),
        _ => ApiError::Rejected(status.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(code: u16, retry_after: Option<u64>, body: &str) -> ApiError {
        let answer = Answer {
            status: code,
            retry_after: retry_after.map(Duration::from_secs),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        answer.read().unwrap_err()
    }

    fn status(value: Value) -> ApiError {
        let code = u16::try_from(value["code"].as_u64().unwrap()).unwrap();
        answer(code, None, &value.to_string())
    }

    #[test]
    fn a_service_that_is_gone_or_changed_is_left_to_the_watch() {
        let uid = json!({"causes": [{"field": "metadata.uid", "reason": "FieldValueInvalid"}]});
        let kind = json!({"causes": [{"field": "status.loadBalancer.ingress",
                                      "reason": "FieldValueForbidden"}]});
        for gone in [
            json!({"code": 404, "reason": "NotFound"}),
            json!({"code": 422, "reason": "Invalid", "details": uid}),
            json!({"code": 422, "reason": "Invalid", "details": kind}),
        ] {
            assert!(matches!(status(gone.clone()), ApiError::Gone), "{gone}");
        }
        // In whatever words.
        let modified = json!({"code": 409, "reason": "Conflict", "message": "geändert",
                              "details": {"name": "a", "kind": "services"}});
        assert!(matches!(status(modified), ApiError::Outdated));
    }

    #[test]
    fn who_refuses_a_write_is_told_from_a_right_that_is_missing() {
        let policy = "services \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' \
                      denied request: no";
        let webhook = "admission webhook \"w.example.org\" denied the request: not today";
        let bad = json!({"causes": [{"field": "status.loadBalancer.ingress[0].ip",
                                     "reason": "FieldValueInvalid"}]});
        for (code, message, details) in [
            (422, policy, json!({"kind": "services"})),
            (403, policy, json!({"kind": "services"})),
            (403, webhook, Value::Null),
            (400, webhook, Value::Null),
            (409, webhook, Value::Null),
            (422, "invalid", bad),
        ] {
            let told = json!({"code": code, "message": message, "details": details});
            let error = status(told.clone());
            assert!(matches!(error, ApiError::Rejected(_)), "{told}: {error:?}");
            assert_eq!(error.to_string(), message);
        }
        let right = "services \"a\" is forbidden: User \"u\" cannot patch resource \
                     \"services/status\" in API group \"\" in the namespace \"ns\"";
        let error = status(json!({"code": 403, "reason": "Forbidden", "message": right}));
        assert!(matches!(error, ApiError::Forbidden(_)));
        assert!(
            error.to_string().starts_with("forbidden: services \"a\""),
            "{error}"
        );
    }

    #[test]
    fn an_api_server_that_asks_to_be_left_alone_is_left_alone_for_so_long() {
        let asked = |error: ApiError| {
            let ApiError::Unavailable { retry_after, .. } = error else {
                panic!("{error:?}");
            };
            retry_after.map(|after| after.as_secs())
        };
        let plain = "Too many requests, please try again later.";
        assert_eq!(asked(answer(429, Some(7), plain)), Some(7));
        assert_eq!(asked(answer(503, Some(1_000_000), plain)), Some(300));
        assert_eq!(asked(answer(500, None, plain)), None);
        let status = json!({"code": 429, "details": {"retryAfterSeconds": 3}}).to_string();
        assert_eq!(asked(answer(429, None, &status)), Some(3));
        assert_eq!(asked(answer(429, Some(9), &status)), Some(9));
        for code in [401, 408, 500, 502, 503, 504] {
            assert_eq!(asked(answer(code, None, "<html>")), None, "{code}");
        }
    }
}
