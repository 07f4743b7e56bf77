"""The names of Centrifugo's options: those of v5 and what v6 calls them, and those of a namespace.

Read in Centrifugo's sources (internal/configtypes) and its table for the move from v5 to v6.
"""

from __future__ import annotations

V6_TABLES = frozenset(
    "client channel http_api http_server rpc admin engine broker presence_manager".split()
)

V5 = {
    "token_hmac_secret_key": "client.token.hmac_secret_key",
    "api_key": "http_api.key",
    "api_insecure": "http_api.insecure",
    "api_external": "http_api.external",
    "api_error_mode": "http_api.error_mode",
    "allowed_origins": "client.allowed_origins",
    "client_anonymous": "client.allow_anonymous_connect_without_token",
    "allow_anonymous_connect_without_token": "client.allow_anonymous_connect_without_token",
    "disallow_anonymous_connection_tokens": "client.disallow_anonymous_connection_tokens",
    "ping_interval": "client.ping_interval",
    "pong_timeout": "client.pong_timeout",
    "separate_subscription_token_config": "client.subscription_token.enabled",
    "user_subscribe_to_personal": "client.subscribe_to_user_personal_channel.enabled",
    "user_personal_channel_namespace":
        "client.subscribe_to_user_personal_channel.personal_channel_namespace",
    "user_personal_single_connection":
        "client.subscribe_to_user_personal_channel.single_connection",
    "global_history_meta_ttl": "channel.history_meta_ttl",
    "history_max_publication_limit": "client.history_max_publication_limit",
    "recovery_max_publication_limit": "client.recovery_max_publication_limit",
    "address": "http_server.address",
    "port": "http_server.port",
    "internal_address": "http_server.internal_address",
    "internal_port": "http_server.internal_port",
    "http3": "http_server.http3.enabled",
    "engine": "engine.type",
    "name": "node.name",
    "tls": "http_server.tls.enabled",
    "tls_cert": "http_server.tls.cert_pem",
    "tls_key": "http_server.tls.key_pem",
    "tls_cert_pem": "http_server.tls.cert_pem",
    "tls_key_pem": "http_server.tls.key_pem",
    "tls_external": "http_server.tls_external",
    "namespaces": "channel.namespaces",
}  # fmt: skip

V5_PREFIXES = {
    "subscription_token_": "client.subscription_token.",
    "token_": "client.token.",
    "client_": "client.",
    "channel_": "channel.",
    "proxy_connect_": "client.proxy.connect.",
    "proxy_refresh_": "client.proxy.refresh.",
    "proxy_rpc_": "rpc.proxy.",
    "proxy_subscribe_stream_": "channel.proxy.subscribe_stream.",
    "proxy_sub_refresh_": "channel.proxy.sub_refresh.",
    "proxy_subscribe_": "channel.proxy.subscribe.",
    "proxy_publish_": "channel.proxy.publish.",
    "rpc_": "rpc.",
    "redis_": "engine.redis.",
    "nats_": "broker.nats.",
    "admin_": "admin.",
    "grpc_api_": "grpc_api.",
    "uni_grpc_": "uni_grpc.",
    "websocket_": "websocket.",
    "uni_websocket_": "uni_websocket.",
    "uni_sse_": "uni_sse.",
    "uni_http_stream_": "uni_http_stream.",
    "http_stream_": "http_stream.",
    "sse_": "sse.",
    "tls_autocert_": "tls_autocert.",
    "tls_": "http_server.tls.",
    "graphite_": "graphite.",
    "log_": "log.",
    "node_": "node.",
    "shutdown_": "shutdown.",
    "opentelemetry_": "opentelemetry.",
    "prometheus_": "prometheus.",
    "health_": "health.",
}

V5_SWITCHES = frozenset(
    "admin prometheus health swagger debug sse http_stream uni_sse uni_http_stream uni_websocket"
    " uni_grpc grpc_api webtransport graphite opentelemetry tls_autocert".split()
)

CHANNEL_OPTIONS = frozenset(
    "presence join_leave force_push_join_leave history_size history_ttl history_meta_ttl"
    " force_positioning allow_positioning force_recovery allow_recovery force_recovery_mode"
    " allowed_delta_types delta_publish allow_subscribe_for_anonymous allow_subscribe_for_client"
    " allow_publish_for_anonymous allow_publish_for_client allow_publish_for_subscriber"
    " allow_presence_for_anonymous allow_presence_for_client allow_presence_for_subscriber"
    " allow_history_for_anonymous allow_history_for_client allow_history_for_subscriber"
    " allow_user_limited_channels channel_regex subscribe_proxy_enabled publish_proxy_enabled"
    " sub_refresh_proxy_enabled subscribe_stream_proxy_enabled subscribe_proxy_name"
    " publish_proxy_name sub_refresh_proxy_name subscribe_stream_proxy_name"
    " subscribe_stream_bidirectional proxy_subscribe proxy_publish proxy_sub_refresh"
    " proxy_subscribe_stream subscribe_cel publish_cel presence_cel history_cel"
    " keep_latest_publication shared_position_sync state_events cache_empty_proxy_name"
    " broker_name presence_manager_name".split()
)
