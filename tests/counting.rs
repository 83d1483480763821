//! Every visit gets a number of its own.

use crate::support::{Redis, Service};

#[test]
fn visitors_are_numbered_one_by_one() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    let numbers: Vec<i64> = (0..3).map(|_| client.get("/").number()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(redis.count(), 3);
}
