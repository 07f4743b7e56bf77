// The npm client of Centrifugo, led by a test: commands come as JSON lines on stdin, answers and
// everything the client emits go out as JSON lines on stdout. One process may hold many clients.
import { createInterface } from 'node:readline';
import { Centrifuge as JsonCentrifuge } from 'centrifuge';
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

const clients = {};

function say(line) {
  process.stdout.write(JSON.stringify(line, (_, value) =>
    value instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(value))
      : value instanceof Error ? { message: value.message, code: value.code }
        : typeof value === 'bigint' ? Number(value)
          : value instanceof Map ? Object.fromEntries(value) : value) + '\n');
}

const CLIENT_EVENTS = ['connecting', 'connected', 'disconnected', 'error', 'message',
  'subscribed', 'subscribing', 'unsubscribed', 'publication', 'join', 'leave'];
const SUBSCRIPTION_EVENTS = ['subscribing', 'subscribed', 'unsubscribed', 'publication', 'join',
  'leave', 'error'];

function listen(emitter, names, about) {
  for (const name of names) {
    emitter.on(name, (context) => say({ ...shown(context), ...about, event: name }));
  }
}

function shown(context) {
  const found = { ...context };
  if (found.data instanceof Uint8Array) found.data = payload(found.data);
  return found;
}

// Protobuf's payloads are bytes, here those of JSON; an empty one is none.
function payload(data) {
  if (!(data instanceof Uint8Array)) return data;
  return data.length ? JSON.parse(new TextDecoder().decode(data)) : null;
}

function wrapped(client, data) {
  return client.isProtobuf ? new TextEncoder().encode(JSON.stringify(data)) : data;
}

// A way to be given tokens: in turn, the last one again and again, "" for none.
function tokenGetter(name, tokens, about) {
  let at = 0;
  return async () => {
    say({ who: name, event: 'asked for a token', ...about });
    return tokens[Math.min(at++, tokens.length - 1)];
  };
}

const commands = {
  open({ client: name, url, transport, protobuf = false, tokens, ...options }) {
    const Centrifuge = protobuf ? ProtobufCentrifuge : JsonCentrifuge;
    const endpoint = transport === 'websocket'
      ? `${url.replace('http', 'ws')}/connection/websocket` : `${url}/connection/${transport}`;
    const query = options.query ?? '';
    delete options.query;
    const client = new Centrifuge([{ transport, endpoint: endpoint + query }], {
      websocket: WebSocket,
      eventsource: EventSource,
      emulationEndpoint: `${url}/emulation`,
      minReconnectDelay: 20,
      maxReconnectDelay: 300,
      timeout: 10000,
      ...(tokens ? { getToken: tokenGetter(name, tokens, {}) } : {}),
      ...options,
    });
    client.isProtobuf = protobuf;
    clients[name] = client;
    listen(client, CLIENT_EVENTS, { who: name });
    return {};
  },

  connect({ client }) { clients[client].connect(); return {}; },
  disconnect({ client }) { clients[client].disconnect(); return {}; },

  // As if the network had broken: the client does not know why, and comes back.
  sever({ client }) { clients[client]._transport.close(); return {}; },

  // Subscriptions are made; with `go` they start at once.
  follow({ client: name, channels, go = true, tokens, ...options }) {
    const client = clients[name];
    for (const channel of channels) {
      const about = { who: name, channel };
      const given = tokens ? { getToken: tokenGetter(name, tokens, { channel }) } : {};
      const subscription = client.newSubscription(channel, { ...given, ...options });
      subscription.setMaxListeners?.(20);
      listen(subscription, SUBSCRIPTION_EVENTS, about);
      if (go) subscription.subscribe();
    }
    return {};
  },

  unfollow({ client, channel }) { clients[client].getSubscription(channel).unsubscribe(); return {}; },
  refollow({ client, channel }) { clients[client].getSubscription(channel).subscribe(); return {}; },

  async publish({ client: name, channel, data }) {
    const client = clients[name];
    return client.publish(channel, wrapped(client, data));
  },
  async history({ client, channel, ...options }) {
    const found = await clients[client].history(channel, options);
    return { ...found, publications: found.publications.map(shown) };
  },
  async presence({ client, channel }) { return clients[client].presence(channel); },
  async presenceStats({ client, channel }) { return clients[client].presenceStats(channel); },
  async rpc({ client: name, method, data }) {
    return clients[name].rpc(method, wrapped(clients[name], data));
  },
  // Whether the hub answered that it sends patches; the client itself does not say.
  hasPatches({ client, channel }) {
    return { has: clients[client].getSubscription(channel)._delta_negotiated };
  },
};

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { id, do: name, ...args } = JSON.parse(line);
  try {
    say({ id, answer: await commands[name](args) });
  } catch (error) {
    say({ id, error: { code: error.code, message: error.message } });
  }
}).on('close', () => process.exit(0));
say({ event: 'ready' });
