// The way of a file: chosen, sent, looked at, answered. Nothing is asked of another host.
import { showResult } from './result.js';

const $ = id => document.getElementById(id);
const TOKEN = 'masm_jax.token';  // In sessionStorage: gone with the tab, never sent by itself.
const STAGES = {
  queued: 'Waiting for its turn', read: 'Reading the file', decode: 'Reading the file', faces: 'Looking for faces',
  score: 'Judging the faces', explain: 'Drawing where it looked',
};
let server = { max_bytes: Infinity, keep_s: 0 };
let current = null;  // { id, file, abort } of the job that is shown.

class Refusal extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

const token = () => sessionStorage.getItem(TOKEN) ?? '';
const headers = () => token() ? { Authorization: `Bearer ${token()}` } : {};

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refusal(0, 'The server does not answer. Check the connection, and try again.');
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Refusal(response.status, problem.detail ?? `The server answers ${response.status}.`);
}

function show(name) {
  for (const id of ['start', 'work', 'result']) $(id).hidden = id !== name;
  $('problem').replaceChildren();
}

function say(text) { $('said').textContent = text; }

function tell(error) {
  if (error.name === 'AbortError') return;
  if (error.status === 401) return wantToken('That token is not the one of this server. Please check it.');
  $('problem').textContent = error.message;
  $('problem').scrollIntoView({ block: 'nearest' });
}

function start() {
  current?.abort.abort();
  current = null;
  history.replaceState(null, '', location.pathname);
  document.title = 'Check a picture or a video · masm_jax';
  $('file').value = '';
  $('result').replaceChildren();
  show('start');
}

function wantToken(problem = '') {
  start();
  $('token').hidden = false;
  $('drop').hidden = true;
  $('problem').textContent = token() ? problem : '';
  $('token_text').focus();
}

async function enter() {
  try {
    const model = await (await ask('v1/model')).json();
    server = model.server;
    $('detector').textContent = `Detector: ${model.model.name}`;
    $('limits').textContent = `Pictures: JPEG, PNG, WebP. Videos: MP4, MOV, WebM, MKV, AVI. Up to ${size(server.max_bytes)}.`;
    $('privacy').textContent = 'The file goes to this server alone and is deleted as soon as it has been looked at; '
      + `the answer, with up to six pictures from it, is kept for ${span(server.keep_s)}.`;
    $('token').hidden = true;
    $('drop').hidden = false;
    $('problem').replaceChildren();
  } catch (error) {
    return error.status === 401 ? wantToken('That token is not the one of this server.') : tell(error);
  }
  const id = location.hash.slice(1);
  if (/^[0-9a-f]{32}$/.test(id)) follow({ id, file: null, abort: new AbortController() });
}

export const size = bytes => bytes >= 1e9 ? `${+(bytes / 1e9).toFixed(1)} GB` : `${+(bytes / 1e6).toFixed(1)} MB`;
function span(seconds) {
  const [count, unit] = seconds >= 3600 ? [seconds / 3600, 'hour'] : [seconds / 60, 'minute'];
  return `${+count.toFixed(1)} ${unit}${count === 1 ? '' : 's'}`;
}

function progress(text, share) {
  if ($('stage').textContent !== text) {
    $('stage').textContent = text;
    say(text);  // Each stage once; a screen reader need not hear every percent.
  }
  if (share === null) $('bar').removeAttribute('value');
  else $('bar').value = share;
}

function send(file) {
  if (!file) return;
  start();
  if (file.size > server.max_bytes) {
    return tell(new Refusal(413, `${file.name} has ${size(file.size)}; this server takes files up to ${size(server.max_bytes)}.`));
  }
  const job = current = { id: null, file, abort: new AbortController() };
  show('work');
  $('work_name').textContent = file.name;
  progress('Sending', 0);
  $('work_title').focus();
  const form = new FormData();
  form.append('file', file);
  const request = new XMLHttpRequest();  // fetch tells nothing of how much was sent.
  request.open('POST', 'v1/predictions');
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
  request.upload.onprogress = event => progress('Sending', event.lengthComputable ? event.loaded / event.total : null);
  request.onload = () => {
    const answer = JSON.parse(request.responseText || '{}');
    if (request.status === 202) {
      job.id = answer.id;
      return follow(job);
    }
    start();
    tell(new Refusal(request.status, answer.detail ?? `The server answers ${request.status}.`));
  };
  request.onerror = () => {
    start();
    tell(new Refusal(0, 'The file did not arrive: the connection broke, or the server is full. Try again in a moment.'));
  };
  job.abort.signal.addEventListener('abort', () => request.abort());
  request.send(form);
}

async function follow(job) {
  current = job;
  history.replaceState(null, '', `#${job.id}`);
  try {
    for (let tries = 0; ; tries++) {
      const state = await listen(job);
      if (state?.status === 'done' || state?.status === 'failed') break;
      // The line broke, or the server starts anew: the job is still there.
      await new Promise(resolve => setTimeout(resolve, Math.min(8000, 500 * 2 ** tries)));
      if (current !== job) return;
    }
    const answered = await (await ask(`v1/predictions/${job.id}`, { signal: job.abort.signal })).json();
    if (current !== job) return;
    if (answered.status === 'failed') throw new Refusal(500, answered.error);
    const again = () => { start(); $('file').focus(); };
    await showResult($('result'), answered, job.file, { ask, remove, again, token: token() });
    if (current !== job) return;
    show('result');
    document.title = `${answered.words.headline}: ${answered.name} · masm_jax`;
    say('');
    $('verdict').focus();
  } catch (error) {
    if (current !== job) return;
    start();
    tell(error);
  }
}

// Reads the stream of events with fetch: EventSource cannot send a token.
async function listen(job) {
  let state = null;
  try {
    const response = await ask(`v1/predictions/${job.id}/events`, { signal: job.abort.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ''; ;) {
      const { value, done } = await reader.read();
      if (done) return state;
      const blocks = (text + value).split('\n\n');
      text = blocks.pop();
      for (const data of blocks.map(block => block.match(/^data: (.*)$/m)).filter(Boolean)) {
        state = JSON.parse(data[1]);
        if (current === job) told(state, job);
      }
    }
  } catch (error) {
    if (error instanceof Refusal && error.status) throw error;
    if (error.name === 'AbortError') throw error;
    return state;
  }
}

function told(state, job) {
  if (state.status === 'done' || state.status === 'failed') return;
  if ($('work').hidden) {
    show('work');
    $('work_name').textContent = job.file?.name ?? '';
  }
  if (state.status === 'queued') {
    const ahead = state.ahead ? `: ${state.ahead} before it` : '';
    return progress(`${STAGES.queued}${ahead}`, null);
  }
  const { stage, share } = state.progress ?? { stage: 'decode', share: null };
  progress(STAGES[stage] ?? 'Looking at the file', stage === 'decode' || stage === 'read' || share >= 1 ? null : share);
}

async function remove() {
  const job = current;
  start();
  say('Deleted.');
  $('file').focus();
  if (!job?.id) return;
  try {
    await ask(`v1/predictions/${job.id}`, { method: 'DELETE' });
  } catch (error) {
    if (error.status !== 404) tell(error);
  }
}

$('file').addEventListener('change', event => send(event.target.files[0]));
$('cancel').addEventListener('click', remove);
$('token').addEventListener('submit', event => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $('token_text').value.trim());
  $('token_text').value = '';
  enter();
});
const holds = event => event.dataTransfer?.types.includes('Files') && !$('drop').hidden && !$('start').hidden;
addEventListener('dragover', event => {
  event.preventDefault();
  $('drop').classList.toggle('over', Boolean(holds(event)));
});
addEventListener('dragleave', event => { if (!event.relatedTarget) $('drop').classList.remove('over'); });
addEventListener('drop', event => {
  event.preventDefault();
  $('drop').classList.remove('over');
  if (!holds(event)) return;
  if (event.dataTransfer.files.length > 1) return tell(new Refusal(400, 'Please give one file at a time.'));
  send(event.dataTransfer.files[0]);
});
addEventListener('paste', event => { if (!$('start').hidden && !$('drop').hidden) send(event.clipboardData.files[0]); });
enter();
