// What a small command-line publisher in node does: connect, publish one
// message, wait for the answer, exit. Usage: publish.js URL TOKEN CHANNEL TEXT
import WebSocket from "ws";

const [url, token, channel, text] = process.argv.slice(2);
const socket = new WebSocket(url, { headers: { Authorization: `Bearer ${token}` } });
socket.on("open", () =>
  socket.send(JSON.stringify({ action: "publish", channel, data: { text }, id: 1 })),
);
socket.on("message", (bytes) => {
  const answer = JSON.parse(bytes);
  if (answer.id !== 1) return;
  process.exitCode = answer.type === "ok" ? 0 : 1;
  socket.close();
});
socket.on("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
