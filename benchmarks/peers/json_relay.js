// A Socket.IO relay that keeps its messages in a JSON file, the way small chat
// relays do: the last 1,000 messages of a room are rewritten as one file for
// each message, then the message is broadcast. No fsync: the file survives the
// process, not the machine. Usage: json_relay.js PORT FOLDER [KEPT]
import { Server } from "socket.io";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

const KEPT_MAX = Number(process.argv[4] ?? 1000);
const http = createServer();
const io = new Server(http, { transports: ["websocket"], pingInterval: 600_000 });
const file = join(process.argv[3], "messages.json");
const messages = existsSync(file) ? JSON.parse(readFileSync(file)) : [];

io.on("connection", (socket) => {
  socket.on("sub", (done) => {
    socket.join("bench");
    done();
  });
  socket.on("pub", (data) => {
    messages.push({ ts: new Date().toISOString(), sender: socket.id, data });
    if (messages.length > KEPT_MAX) messages.shift();
    writeFileSync(file, JSON.stringify(messages));
    io.to("bench").emit("msg", data);
  });
});
http.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("listening"));
