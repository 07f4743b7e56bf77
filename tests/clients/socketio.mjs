// The npm client of Socket.IO, led by a test: commands come as JSON lines on stdin, answers and all
// that the clients hear go out as JSON lines on stdout. One process holds any number of clients.
import { createInterface } from 'node:readline';
import { io } from 'socket.io-client';

const clients = {};

function say(line) {
  process.stdout.write(JSON.stringify(line) + '\n');
}

const commands = {
  open({ client: who, url, transports, token }) {
    const socket = clients[who] = io(url, {
      transports, auth: { token }, forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100,
    });
    socket.on('connect', () => say({ event: 'connect', who, sid: socket.id }));
    socket.on('connect_error', (error) => say({
      event: 'connect_error', who, message: error.message, data: error.data ?? null,
      is_active: socket.active,
    }));
    socket.on('disconnect', (reason) => say({ event: 'disconnect', who, reason }));
    socket.io.engine?.on('upgrade', (transport) => say({ event: 'upgrade', who, name: transport.name }));
    socket.onAny((name, ...args) => {
      const answer = typeof args.at(-1) === 'function' ? args.pop() : null;
      say({ event: 'heard', who, name, args });
      if (answer) answer({ ok: true, name });
    });
  },
  async ask({ client, name, args }) { return clients[client].timeout(10_000).emitWithAck(name, ...args); },
  emit({ client, name, args }) { clients[client].emit(name, ...args); },
  size({ client, name, size }) {
    return clients[client].timeout(10_000).emitWithAck(name, 'x'.repeat(size)).then((back) => back[0].length);
  },
  close({ client }) { clients[client].disconnect(); },
};

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { id, do: name, ...args } = JSON.parse(line);
  try {
    say({ id, answer: (await commands[name](args)) ?? null });
  } catch (error) {
    say({ id, error: { message: error.message } });
  }
}).on('close', () => process.exit(0));
say({ event: 'ready' });
