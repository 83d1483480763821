//! A counter as the documentation of axum and of the redis crate would have one write it.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use redis::AsyncCommands as _;
use redis::aio::ConnectionManager;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1/".to_owned());
    let port = std::env::var("PORT").unwrap_or_else(|_| "5000".to_owned());
    let redis = ConnectionManager::new(redis::Client::open(url)?).await?;
    let app = Router::new().route("/", get(greet)).with_state(redis);
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    Ok(axum::serve(listener, app).await?)
}

async fn greet(State(mut redis): State<ConnectionManager>) -> Result<String, StatusCode> {
    let number: i64 = redis
        .incr("visitorCount", 1)
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(format!("Welcome to Abukiks! Visitor count: {number}"))
}
