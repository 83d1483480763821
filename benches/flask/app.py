"""The visitor counter of the well-known tutorial: increment, then ask how many there are."""

import os

import redis
from flask import Flask

app = Flask(__name__)
store = redis.Redis.from_url(os.environ["REDIS_URL"])


@app.route("/")
def welcome():
    store.incr("visitorCount")
    number = store.get("visitorCount").decode()
    return f"Welcome to Abukiks! Visitor count: {number}"
