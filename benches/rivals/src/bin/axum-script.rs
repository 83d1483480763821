//! The counter of `axum-redis`, made safe as the service is: each visit is counted by the service's
//! script, which knows it again. For one visitor at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use redis::Script;
use redis::aio::ConnectionManager;
use tokio::net::TcpListener;

struct Counter {
    redis: ConnectionManager,
    script: Script,
    producer: String,
    visits: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1/".to_owned());
    let port = std::env::var("PORT").unwrap_or_else(|_| "5000".to_owned());
    let counter = Counter {
        redis: ConnectionManager::new(redis::Client::open(url)?).await?,
        script: Script::new(include_str!("../../../../src/store/scripts/increment.lua")),
        producer: format!("{{visitorCount}}:producer:{:032}", std::process::id()),
        visits: AtomicU64::new(0),
    };
    let app = Router::new()
        .route("/", get(greet))
        .with_state(Arc::new(counter));
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    Ok(axum::serve(listener, app).await?)
}

async fn greet(State(counter): State<Arc<Counter>>) -> Result<String, StatusCode> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let total: String = counter
        .script
        .key("visitorCount")
        .key(&counter.producer)
        .key("{visitorCount}:epoch")
        .arg((now + Duration::from_secs(60 * 60)).as_secs())
        .arg(1)
        .arg(1 + counter.visits.fetch_add(1, Relaxed))
        .invoke_async(&mut counter.redis.clone())
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let number = total.split(' ').next().unwrap_or_default();
    Ok(format!("Welcome to Abukiks! Visitor count: {number}"))
}
