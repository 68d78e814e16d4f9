// The answer on the page. Texts come from the server's words; names of strangers are text, never HTML.
const SVG = 'http://www.w3.org/2000/svg';
// Why a frame or a person was left out is told by the server; these say what nobody looked at.
const NEVER = 'Sound, subtitles, metadata and everything outside the faces were not looked at.';

function el(tag, fields = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name in made && typeof value !== 'string') made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== ''));
  return made;
}

function svg(tag, fields, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(fields)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const percent = p => p > 0.99 ? 'more than 99 %' : p < 0.01 ? 'less than 1 %' : `${Math.round(100 * p)} %`;
const place = p => `${(100 * Math.min(1, Math.max(0, p))).toFixed(2)}%`;
const clock = s => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, '0')}`;
const exact = s => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, '0')}`;
const list = (kind, texts) => texts.length ? el('ul', { class: kind }, ...texts.map(text => el('li', {}, text))) : null;
const part = (title, ...children) => el('section', { class: 'part' }, el('h2', {}, title), ...children);

export async function showResult(root, job, file, page) {
  const { answer, words } = job;
  root.className = answer.verdict;
  const views = await loadViews(job, page);
  const stage = answer.tracks.length && (file || views.length) ? makeStage(answer, file, views) : null;
  const people = answer.tracks.map((track, i) => person(track, words.tracks[i], job, views, stage));
  const parts = [
    finding(job),
    stage ? part(answer.input.kind === 'video' ? 'The video' : 'The picture', stage.node) : null,
    people.length ? part(people.length > 1 ? `${people.length} people` : 'The person', ...people) : null,
    explanation(job),
    part('What was not looked at', list('plain', unseen(answer))),
    part('How this was decided', rules(answer, words)),
    part('Next', actions(job, page)),
  ];
  root.replaceChildren(...parts.filter(Boolean));
}

async function load(job, name, page) {
  try {
    const response = await page.ask(`v1/predictions/${job.id}/pictures/${encodeURIComponent(name)}`);
    return URL.createObjectURL(await response.blob());
  } catch {
    return null;  // Deleted meanwhile; the answer is still worth its place.
  }
}

// Frames that came with the answer: { index, time, url }, in order.
async function loadViews(job, page) {
  const found = job.pictures.map(name => [name, name.match(/^view-(\d+)\.jpg$/)]).filter(([, match]) => match);
  const times = new Map(job.answer.tracks.flatMap(track => track.frames.map(frame => [frame.index, frame.time_s])));
  const views = await Promise.all(found.map(async ([name, match]) =>
    ({ index: +match[1], time: times.get(+match[1]) ?? 0, url: await load(job, name, page) })));
  return views.filter(view => view.url).sort((a, b) => a.index - b.index);
}

function facts(input) {
  const kind = { image: 'picture', video: 'video' }[input.kind];
  const parts = [kind, input.duration_s === null ? '' : clock(input.duration_s),
    input.width ? `${input.width} × ${input.height}` : '', input.codec ?? ''];
  return parts.filter(Boolean).join(', ');
}

function finding({ answer, words, name }) {
  const about = facts(answer.input);
  return el('div', { class: 'finding' },
    el('p', { class: 'hint' }, about ? `${name} · ${about}` : name),
    el('h1', { id: 'verdict', tabindex: '-1' }, words.headline),
    el('p', { class: 'lead' }, words.explanation),
    answer.probability === null ? null : scale(answer, words),
    list('caveats', words.reasons));
}

function scale(answer, words) {
  const { threshold, abstain, calibration } = answer.policy;
  const [low, high] = abstain ?? [threshold, threshold];
  const zones = el('div', { class: 'zones', 'aria-hidden': 'true' });
  const at = (kind, from, to = null) => {
    const mark = el('div', { class: kind });
    mark.style.left = place(from);
    if (to !== null) mark.style.width = place(to - from);
    zones.append(mark);
  };
  if (high > low) at('band', low, high);
  if (answer.interval) at('spread', ...answer.interval);
  at('point', answer.probability);
  const band = high > low ? ` Between ${percent(low)} and ${percent(high)} (hatched) the answer is “undecided”.` : '';
  const spread = answer.interval ? ' The pale bar is the 95 % interval.' : '';
  return el('div', {},
    el('p', { class: 'number' }, words.number),
    el('p', { class: 'caption' }, calibration ? 'probability of a fake face, by this detector' : 'score, which is no probability'),
    el('div', { class: 'scale' }, zones,
      el('p', { class: 'ends' }, el('span', {}, 'nothing found'), el('span', {}, 'signs of manipulation')),
      el('p', { class: 'caption' }, `From ${percent(high)} on the verdict is “signs of manipulation”.${band}${spread}`)));
}

const sizeOf = ({ width, height }) => ({ width: width || 1, height: height || 1 });
const nearest = (items, time, of) => items.reduce((a, b) => !a || Math.abs(of(b) - time) < Math.abs(of(a) - time) ? b : a, null);

// The user's own file, read by the browser alone; or the frames that came with the answer. Boxes lie over it.
function makeStage(answer, file, views) {
  const { width, height } = sizeOf(answer.input), isVideo = answer.input.kind === 'video';
  const what = `${isVideo ? 'The video' : 'The picture'} with a box around each face that was looked at`;
  const boxes = svg('svg', { viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' });
  const holder = el('div', { class: 'stage' });
  const caption = el('p', { class: 'hint' });
  const node = el('div', {}, holder, caption);
  const size = Math.max(16, Math.max(width, height) / 36);
  const draw = time => {
    boxes.replaceChildren(...answer.tracks.flatMap(track => {
      const near = nearest(track.frames, time, frame => frame.time_s);
      if (!near || (isVideo && Math.abs(near.time_s - time) > gapOf(track))) return [];
      const [x, y, w, h] = near.box;
      const shape = { x, y, width: w, height: h, rx: size / 4 };
      const label = svg('text', { x, y: y > 1.4 * size ? y - 0.4 * size : y + h + size, 'font-size': size });
      label.textContent = answer.tracks.length > 1 ? `Person ${track.id + 1}` : 'Face';
      return [svg('rect', { ...shape, class: 'under' }), svg('rect', { ...shape, class: 'over' }), label];
    }));
  };
  let seek;
  const showViews = () => {
    if (!views.length) {
      holder.remove();
      caption.textContent = 'This browser cannot show the file; the answer does not depend on it.';
      return;
    }
    const image = el('img', { alt: what });
    holder.replaceChildren(image, boxes);
    seek = time => {
      const view = nearest(views, time, one => one.time);
      image.src = view.url;
      draw(view.time);
      caption.textContent = isVideo ? `The moment at ${exact(view.time)}, one of ${views.length} that are kept with the answer.` : '';
    };
    seek(answer.tracks[0].start_s);
  };
  const showFile = () => {
    const src = URL.createObjectURL(file);
    const media = isVideo ? el('video', { src, muted: true, controls: true, playsInline: true, preload: 'auto', 'aria-label': what })
      : el('img', { src, alt: what });
    holder.replaceChildren(media, boxes);
    media.addEventListener('error', showViews);  // A codec that this browser lacks.
    seek = time => {
      if (isVideo) {
        media.pause();
        media.currentTime = time;
      }
      draw(time);
    };
    if (isVideo) {
      for (const event of ['timeupdate', 'seeked', 'loadeddata']) media.addEventListener(event, () => draw(media.currentTime));
      caption.textContent = 'The boxes follow the moments that were looked at.';
    }
    draw(isVideo ? 0 : answer.tracks[0].start_s);
  };
  if (file) showFile(); else showViews();
  return { node, seek: time => seek?.(time) };
}

// A face, cut out of a frame by the browser.
function face(track, frame, view, input) {
  const [x, y, w, h] = frame.box;
  const side = 1.25 * Math.max(w, h, 1);
  const label = `Person ${track.id + 1}${input.kind === 'video' ? ` at ${exact(frame.time_s)}` : ''}`;
  const image = svg('image', { href: view.url, ...sizeOf(input), preserveAspectRatio: 'none' });
  return el('li', {}, svg('svg', { viewBox: `${x + w / 2 - side / 2} ${y + h / 2 - side / 2} ${side} ${side}`, role: 'img',
    'aria-label': label }, image));
}

function gapOf(track) {
  const times = track.frames.map(frame => frame.time_s);
  return Math.max(0.05, ...times.slice(1).map((time, i) => time - times[i]).slice(0, 50)) * 0.75;
}

function person(track, said, job, views, stage) {
  const { input, tracks } = job.answer;
  const shown = views.map(view => [track.frames.find(frame => frame.index === view.index), view]).filter(([frame]) => frame);
  const faces = el('ul', { class: 'faces', 'aria-label': `Faces of person ${track.id + 1}` },
    ...shown.map(([frame, view]) => face(track, frame, view, input)));
  const many = input.kind === 'video' && track.frames.length > 1 && track.frames_used;
  const told = tracks.length === 1 ? job.words.reasons : [];  // Of one alone, above already.
  return el('article', { class: `person ${track.verdict}` },
    el('h3', {}, said.title), el('p', {}, said.text),
    list('caveats', said.reasons.filter(text => !told.includes(text))),
    shown.length ? faces : null, many ? timeline(track, job.answer, stage) : null, frameTable(track));
}

function timeline(track, answer, stage) {
  const { threshold } = answer.policy;
  const start = track.start_s, length = Math.max(track.end_s - start, 1e-3);
  const step = length / track.frames.length;
  const drawing = svg('svg', { viewBox: '0 0 1000 100', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const x = time => 1000 * (time - start) / (length + step);
  const width = Math.max(1.5, 0.8 * x(start + step));
  for (const { time_s, probability } of track.frames) {
    const top = probability === null ? 4 : Math.max(1, 100 * probability);
    const kind = probability === null ? 'gap' : probability >= threshold ? 'bar high' : 'bar';
    drawing.append(svg('rect', { class: kind, x: x(time_s), y: 100 - top, width, height: top }));
  }
  drawing.append(svg('line', { class: 'limit', x1: 0, x2: 1000, y1: 100 - 100 * threshold, y2: 100 - 100 * threshold }));
  const hand = svg('line', { class: 'hand', y1: -4, y2: 100 });
  drawing.append(hand);
  const slider = el('input', { type: 'range', min: '0', max: String(track.frames.length - 1), step: '1', value: '0',
    'aria-label': `Moment of person ${track.id + 1}` });
  const said = el('output', {});
  const move = seeks => {
    const { time_s, probability } = track.frames[+slider.value];
    const text = `${exact(time_s)}: ${probability === null ? 'not judged' : percent(probability)}`;
    said.textContent = `At ${text}`;
    slider.setAttribute('aria-valuetext', text);
    for (const end of ['x1', 'x2']) hand.setAttribute(end, x(time_s) + width / 2);
    if (seeks && stage) stage.seek(time_s);
  };
  slider.addEventListener('input', () => move(true));
  const values = track.frames.map(frame => frame.probability);
  const best = values.reduce((top, value, i) => value !== null && (top < 0 || value > values[top]) ? i : top, -1);
  slider.value = String(Math.max(0, best));
  move(false);
  const key = `How much each moment looks like a fake; dashed: the threshold, ${percent(threshold)}.`;
  return el('div', { class: 'timeline' }, el('p', { class: 'caption' }, key), el('div', { class: 'plot' }, drawing), slider,
    el('p', { class: 'ends' }, el('span', {}, clock(track.start_s)), el('span', {}, clock(track.end_s))), said);
}

function frameTable(track) {
  const head = el('tr', {}, ...['Time', 'Value', 'Face, pixels', 'Blur', 'Turned'].map(text => el('th', { scope: 'col' }, text)));
  const rows = track.frames.map(({ time_s, probability, quality }) => el('tr', {}, ...[
    exact(time_s), probability === null ? 'not judged' : percent(probability), Math.round(quality.face_px),
    `${Math.round(100 * quality.blur)} %`, `${Math.round(quality.yaw_deg)}°`].map(text => el('td', {}, String(text)))));
  const table = el('table', {}, el('thead', {}, head), el('tbody', {}, ...rows));
  const scroll = el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `Moments of person ${track.id + 1}` }, table);
  const count = track.frames.length;
  return el('details', {}, el('summary', {}, count === 1 ? 'The values' : `All ${count} moments as a table`), scroll);
}

function explanation({ answer, words }) {
  const found = answer.explanation;
  if (found === null) return null;
  const faces = found.faces.map((one, i) => el('div', { class: 'explained' }, el('p', {}, words.explanation_lines[i]),
    heatMaps(one, found.parts), shares(one, found.parts)));
  const key = el('p', { class: 'hint' }, 'Red speaks for a fake, blue against it; the stronger, the more.');
  return part('What the detector reacted to', el('p', {}, found.measured), key, ...faces);
}

// The face, and over it what each patch adds to the score: all learned changes together, then each one.
function heatMaps({ track, picture, maps }, parts) {
  const bytes = Uint8Array.from(atob(picture.split(',')[1]), c => c.charCodeAt(0));
  const href = URL.createObjectURL(new Blob([bytes], { type: 'image/jpeg' }));
  const shown = [];
  if (maps === null) shown.push([`person ${track + 1}`, null]);
  else {
    shown.push(['all changes', maps[0].map((row, y) => row.map((_, x) => maps.reduce((sum, map) => sum + map[y][x], 0)))]);
    if (parts.length > 1) parts.forEach((name, k) => shown.push([name, maps[k]]));
  }
  const most = Math.max(1e-9, ...shown.flatMap(([, map]) => map === null ? [] : map.flat().map(Math.abs)));
  const figures = shown.map(([name, map]) => el('figure', {}, heatMap(href, track, map, most), el('figcaption', {}, name)));
  return el('div', { class: 'maps' }, ...figures);
}

function heatMap(href, track, map, most) {
  const side = map === null ? 1 : map.length;
  const label = `Person ${track + 1}${map === null ? '' : ', with a map of what the detector reacted to'}`;
  const drawing = svg('svg', { viewBox: `0 0 ${side} ${side}`, role: 'img', 'aria-label': label },
    svg('image', { href, width: side, height: side, preserveAspectRatio: 'none' }));
  if (map === null) return drawing;
  map.forEach((row, y) => row.forEach((value, x) => drawing.append(svg('rect', { x, y, width: 1.02, height: 1.02,
    class: value > 0 ? 'for' : 'against', 'fill-opacity': (0.65 * Math.abs(value) / most).toFixed(3) }))));
  return drawing;
}

// How far each learned change moves the score, from where the pretrained backbone stands.
function shares({ base_logit, shapley, logit }, parts) {
  const rows = [['Before training', base_logit], ...parts.map((name, k) => [name, shapley[k]]), ['Score', logit]];
  const most = Math.max(1e-9, ...rows.map(([, value]) => Math.abs(value)));
  const body = rows.map(([name, value]) => {
    const width = 100 * Math.abs(value) / most;
    const bar = svg('svg', { viewBox: '-100 0 200 12', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
      svg('rect', { class: value > 0 ? 'for' : 'against', x: value > 0 ? 0 : -width, y: 1, width, height: 10 }),
      svg('line', { x1: 0, x2: 0, y1: 0, y2: 12 }));
    return el('tr', {}, el('th', { scope: 'row' }, name), el('td', {}, `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(2)}`), el('td', {}, bar));
  });
  return el('table', { class: 'shares' }, el('caption', {}, 'What adds up to the score'), el('tbody', {}, ...body));
}

function unseen(answer) {
  const texts = [...answer.warnings];
  for (const track of answer.tracks) {
    const left = track.frames.length - track.frames_used;
    if (left > 0) texts.push(`Person ${track.id + 1}: ${left} of ${track.frames.length} moments were not judged, for the face was small, blurred or turned away in them.`);
  }
  const looked = new Set(answer.tracks.flatMap(track => track.frames.map(frame => frame.index))).size;
  if (answer.input.kind === 'video' && answer.input.frames && looked) {
    texts.push(`${looked} of about ${answer.input.frames} frames were looked at, spread over the video.`);
  }
  return [...texts, NEVER];
}

function rules(answer, words) {
  const { model, input, timing_s } = answer;
  const rows = [
    ['Rules', words.fine_print],
    ['Detector', `${model.name}: ${model.method} on ${model.backbone}`],
    ['Trained on', words.trained_on],
    ['Weights', el('code', {}, model.sha256.slice(0, 16) || 'not recorded')],
    ['Program', el('code', {}, model.code)],
    ['File, SHA-256', el('code', {}, input.sha256)],
  ];
  if (timing_s) {
    const total = Object.values(timing_s).reduce((sum, value) => sum + value, 0);
    rows.push(['Time', `${total.toFixed(1)} s`]);
  }
  return el('dl', {}, ...rows.flatMap(([what, value]) => [el('dt', {}, what), el('dd', {}, value)]));
}

function actions(job, page) {
  const base = `v1/predictions/${job.id}`;
  const kept = job.kept_until ? new Date(job.kept_until).toLocaleString('en-GB', { dateStyle: 'long', timeStyle: 'short' }) : '';
  const link = (text, path, name) => {
    const made = el('a', { class: 'button quiet', href: path, target: '_blank', rel: 'noopener' }, text);
    if (page.token) made.addEventListener('click', event => {  // A link cannot send the token.
      event.preventDefault();
      save(page, path, name);
    });
    return made;
  };
  const button = (text, kind, act) => {
    const made = el('button', { class: `button ${kind}`, type: 'button' }, text);
    made.addEventListener('click', act);
    return made;
  };
  return el('div', {},
    el('div', { class: 'actions' }, button('Check another file', '', page.again),
      link('Printable report', `${base}/report`, `report-${job.id.slice(0, 8)}.html`),
      link('JSON', base, `prediction-${job.id.slice(0, 8)}.json`), button('Delete now', 'quiet', page.remove)),
    el('p', { class: 'hint' }, kept ? `The uploaded file is deleted already. The answer will be deleted on ${kept}.` : ''));
}

async function save(page, path, name) {
  const blob = await (await page.ask(path)).blob();
  const link = el('a', { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
