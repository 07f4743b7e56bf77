// A STAND-IN for the published `claw.events` CLI, which no registry offers under that name any
// more. Written from its sources: it makes the same HTTP calls with the same bodies and headers,
// derives the WebSocket's address the same way, uses the same centrifuge client with the same
// options, and reads the same members of answers. What it prints is ours: one JSON per line.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const options = {};
const rest = [];
const raw = process.argv.slice(2);
for (let at = 0; at < raw.length; at++) {
  const name = { '--config': 'config', '-c': 'config', '--server': 'server', '-s': 'server',
    '--token': 'token', '-t': 'token' }[raw[at]];
  if (name && at + 1 < raw.length) options[name] = raw[++at];
  else rest.push(raw[at]);
}
const configPath = join(options.config, 'config.json');
const [command, ...args] = rest;

function loadConfig() {
  return existsSync(configPath) ? JSON.parse(readFileSync(configPath, 'utf8')) : {};
}
function saveConfig(config) {
  mkdirSync(options.config, { recursive: true });
  writeFileSync(configPath, JSON.stringify(config, null, 2));
}
const apiUrl = options.server ?? process.env.CLAW_API_URL ?? loadConfig().serverUrl;
const wsUrl = (apiUrl.startsWith('https://') ? 'wss://' : 'ws://')
  + apiUrl.replace(/^https?:\/\//, '') + '/connection/websocket';
const token = () => options.token ?? loadConfig().token;
const flag = (name) => (args.includes(name) ? args[args.indexOf(name) + 1] : undefined);
const say = (value) => console.log(JSON.stringify(value));

function fail(error) {
  console.error(JSON.stringify({ status: 'error', error }));
  process.exit(1);
}

async function call(method, path, body, { isAuthorized = true, mayFail = false } = {}) {
  const headers = {};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (isAuthorized) {
    if (!token()) fail('Authentication required');
    headers.Authorization = `Bearer ${token()}`;
  }
  const init = method === 'GET' ? undefined : { method, headers, body: JSON.stringify(body) };
  const response = await fetch(apiUrl + path, init);
  if (response.status === 429) {
    const limit = await response.json();
    fail(`Server rate limit exceeded. ${limit.retry_timestamp} ${limit.retry_after}`);
  }
  if (!response.ok && !mayFail) fail(`${response.status} ${await response.text()}`);
  return response.ok ? response.json() : null;
}

// The envelope of the hub's own channels; what else comes is shown as it is.
function shown(channel, data) {
  const isDressed = data !== null && typeof data === 'object' && '_claw' in data;
  return isDressed
    ? { channel, sender: data._claw.sender, payload: data.payload, timestamp: data._claw.timestamp }
    : { channel, payload: data, timestamp: Date.now() };
}

async function listen(channels, take) {
  if (!token()) fail('Authentication required');
  const { Centrifuge } = await import('centrifuge');
  // Its runtime has a WebSocket of its own.
  globalThis.WebSocket ??= (await import('ws')).default;
  const client = new Centrifuge(wsUrl, { token: token(), debug: false });
  client.on('disconnected', (context) => fail(`Disconnected from WebSocket: ${context.reason}`));
  client.on('error', (context) => fail(`Client error ${JSON.stringify(context)}`));
  for (const channel of channels) {
    const subscription = client.newSubscription(channel);
    subscription.on('subscribed', () => console.error(`Subscribed to ${channel}`));
    subscription.on('publication', (context) => take(shown(channel, context.data)));
    subscription.on('unsubscribed', (c) => fail(`Unsubscribed from ${channel}: ${c.reason}`));
    subscription.on('error', (c) => fail(`Subscription error on ${channel}: ${JSON.stringify(c)}`));
    subscription.subscribe();
  }
  client.connect();
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return text; }
}

const commands = {
  config() {
    saveConfig({ ...loadConfig(), serverUrl: options.server });
    say({ serverUrl: options.server, webSocketUrl: wsUrl });
  },

  async 'dev-register'() {
    const username = flag('--user');
    const made = await call('POST', '/auth/dev-register', { username }, { isAuthorized: false });
    if (!made.token) fail('No token returned from server');
    saveConfig({ ...loadConfig(), username, token: made.token });
    say({ username });
  },

  whoami() {
    const config = loadConfig();
    say({ authenticated: Boolean(token()), username: config.username ?? null, serverUrl: apiUrl });
  },

  async pub() {
    const text = args.slice(1).join(' ');
    const payload = text ? parsed(text) : null;
    const said = await call('POST', '/api/publish', { channel: args[0], payload });
    say({ channel: args[0], payload, said });
  },

  sub() { listen(args, say); },

  subexec() {
    const at = args.indexOf('--');
    const size = Number(flag('--buffer') ?? 0);
    const channels = args.slice(0, at).filter((one) => one !== '--buffer' && one !== flag('--buffer'));
    const [program, ...given] = args.slice(at + 1);
    const run = (value) => spawn(program, [...given, JSON.stringify(value)],
      { stdio: ['ignore', 'inherit', 'inherit'] });
    const messages = [];
    listen(channels, (event) => {
      if (!size) { run(event); return; }
      messages.push(event);
      if (messages.length < size) return;
      run({ batch: true, count: size, messages: messages.splice(0), timestamp: Date.now() });
    });
  },

  async lock() { say(await call('POST', '/api/lock', { channel: args[0] })); },
  async unlock() { say(await call('POST', '/api/unlock', { channel: args[0] })); },
  async grant() { say(await call('POST', '/api/grant', { target: args[0], channel: args[1] })); },
  async revoke() { say(await call('POST', '/api/revoke', { target: args[0], channel: args[1] })); },
  async request() {
    const reason = args.slice(1).join(' ') || 'Requesting access';
    say(await call('POST', '/api/request', { channel: args[0], reason }));
  },

  async validate() {
    // Its own small validator judges; the hub gives the schema.
    const data = JSON.parse(args[0]);
    const parts = flag('--channel').split('.');
    const found = await call('GET', `/api/advertise/${parts[1]}/${parts.slice(2).join('.')}`, undefined,
      { isAuthorized: false, mayFail: true });
    say({ data, schema: found?.schema ?? null });
  },

  async advertise() {
    const [action, ...more] = args;
    if (action === 'set') {
      const schema = flag('--schema');
      const body = { channel: flag('--channel'), description: flag('--desc'),
        schema: schema === undefined ? undefined : parsed(schema) };
      const made = await call('POST', '/api/advertise', body);
      say({ channel: body.channel, data: made.data });
    } else if (action === 'delete') {
      say(await call('DELETE', '/api/advertise', { channel: more[0] }));
    } else if (action === 'list') {
      const path = more[0] ? `/api/profile/${more[0]}` : '/api/advertise/list';
      const found = await call('GET', path, undefined, { isAuthorized: false });
      if (!found.ok) fail('not ok');
      say({ channels: found.channels });
    } else if (action === 'show') {
      const parts = more[0].split('.');
      const path = `/api/advertise/${parts[1]}/${parts.slice(2).join('.')}`;
      say(await call('GET', path, undefined, { isAuthorized: false }));
    } else if (action === 'search') {
      const path = `/api/advertise/search?q=${encodeURIComponent(more[0])}&limit=${flag('--limit') ?? '20'}`;
      const found = await call('GET', path, undefined, { isAuthorized: false });
      if (!found.ok || !Array.isArray(found.results)) fail('missing results array');
      say({ count: found.count ?? found.results.length, total: found.total ?? found.count,
        results: found.results });
    }
  },
};

await commands[command]();
