// A model in a browser, or in Node: model.wasm over files in memory.
//
// const model = await open(name => the bytes of a file of the artefact);
// model.read("def "); for (const text of model.write()) …

const BAD = 8, NO_ENTRY = 44, NOT_A_FOLDER = 54; // of WASI, as the functions below
const ROOT = 3; // the descriptor of the only folder

/** Files in memory as WASI's functions (preview 1), those that the program uses. */
class Files {
  all = new Map(); // name → { bytes, size }
  #open = new Map(); // descriptor → { file, at }
  #next = ROOT + 1;

  constructor(memory) {
    const view = () => new DataView(memory().buffer);
    const text = (at, size) => new TextDecoder().decode(new Uint8Array(memory().buffer, at, size));
    const vectors = (at, count, each) => {
      let done = 0;
      for (let i = 0; i < count; i++, at += 8)
        done += each(new Uint8Array(memory().buffer, view().getUint32(at, true), view().getUint32(at + 4, true)));
      return done;
    };
    this.calls = {
      environ_sizes_get: (count, size) => {
        view().setUint32(count, 0, true);
        view().setUint32(size, 0, true);
        return 0;
      },
      environ_get: () => 0,
      proc_exit: code => { throw new Error(`the program ended with ${code}`); },
      fd_prestat_get: (fd, at) => {
        if (fd !== ROOT) return BAD;
        view().setUint32(at, 0, true);
        view().setUint32(at + 4, 1, true); // its name is /
        return 0;
      },
      fd_prestat_dir_name: (fd, at) => (view().setUint8(at, 47), 0),
      fd_fdstat_get: (fd, at) => {
        if (fd !== ROOT && !this.#open.has(fd)) return BAD;
        new Uint8Array(memory().buffer, at, 24).fill(255); // every right
        view().setUint8(at, fd === ROOT ? 3 : 4); // a folder, a file
        view().setUint16(at + 2, 0, true);
        return 0;
      },
      fd_fdstat_set_flags: () => 0,
      path_open: (folder, follow, at, size, how, rights, inherited, flags, found) => {
        const name = text(at, size), CREATE = 1, CUT = 8;
        if (!this.all.has(name) && !(how & CREATE)) return NO_ENTRY;
        if (!this.all.has(name) || how & CUT) this.all.set(name, { bytes: new Uint8Array(1 << 16), size: 0 });
        this.#open.set(this.#next, { file: this.all.get(name), at: 0 });
        view().setUint32(found, this.#next++, true);
        return 0;
      },
      fd_close: fd => (this.#open.delete(fd) ? 0 : BAD),
      fd_sync: () => 0,
      fd_read: (fd, at, count, read) => {
        const one = this.#open.get(fd);
        if (!one) return BAD;
        view().setUint32(read, vectors(at, count, room => {
          const some = one.file.bytes.subarray(one.at, Math.min(one.at + room.length, one.file.size));
          room.set(some);
          one.at += some.length;
          return some.length;
        }), true);
        return 0;
      },
      fd_write: (fd, at, count, written) => {
        const one = this.#open.get(fd);
        if (!one) return BAD;
        view().setUint32(written, vectors(at, count, bytes => {
          const { file } = one, end = one.at + bytes.length;
          if (end > file.bytes.length) {
            const more = new Uint8Array(Math.max(end, 2 * file.bytes.length));
            more.set(file.bytes);
            file.bytes = more;
          }
          file.bytes.set(bytes, one.at);
          one.at = end;
          file.size = Math.max(file.size, end);
          return bytes.length;
        }), true);
        return 0;
      },
      fd_seek: (fd, by, from, found) => {
        const one = this.#open.get(fd);
        if (!one) return BAD;
        one.at = Number(by) + [0, one.at, one.file.size][from];
        view().setBigUint64(found, BigInt(one.at), true);
        return 0;
      },
      path_filestat_get: (folder, follow, at, size, found) => {
        const file = this.all.get(text(at, size));
        if (!file) return NO_ENTRY;
        new Uint8Array(memory().buffer, found, 64).fill(0);
        view().setUint8(found + 16, 4);
        view().setBigUint64(found + 32, BigInt(file.size), true);
        return 0;
      },
      path_rename: (folder, at, size, to, newAt, newSize) => {
        const file = this.all.get(text(at, size));
        if (!file) return NO_ENTRY;
        this.all.delete(text(at, size));
        this.all.set(text(newAt, newSize), file);
        return 0;
      },
      path_unlink_file: (folder, at, size) => (this.all.delete(text(at, size)) ? 0 : NO_ENTRY),
      path_remove_directory: () => NOT_A_FOLDER,
    };
  }

  put(name, bytes) { this.all.set(name, { bytes, size: bytes.length }); }
  get(name) { const { bytes, size } = this.all.get(name); return bytes.slice(0, size); }
}

/** One stream through the model. */
class Model {
  #c; #files; #model; #tokenizer; #state; #logits; #room; #how; #known;
  #decoder = new TextDecoder();

  constructor(c, files) {
    this.#c = c;
    this.#files = files;
    this.#model = this.#opened(c.cdr_open, "weights.safetensors");
    this.#tokenizer = this.#opened(c.cdr_tokenizer_open, "tokenizer.json");
    this.vocab = c.cdr_vocab(this.#model);
    const more = c.cdr_tokenizer_vocab(this.#tokenizer) > this.vocab;
    if (more) throw new Error("the tokenizer has more tokens than the model");
    this.#state = this.#allocate(c.cdr_state_size(this.#model));
    this.#logits = this.#allocate(4 * this.vocab);
    this.#room = this.#allocate(16 * this.vocab); // cdr_candidate
    this.#how = this.#allocate(40); // cdr_sampling
    this.#known = this.#allocate(this.vocab);
    const known = Array.from({ length: this.vocab }, (_, id) => this.bytes(id).length > 0);
    new Uint8Array(c.memory.buffer).set(known, this.#known);
    this.begin();
  }

  #allocate(size) {
    const at = this.#c.malloc(size);
    if (!at) throw new Error("out of memory");
    return at;
  }

  #given(bytes, use) {
    const at = this.#allocate(bytes.length + 1);
    const memory = new Uint8Array(this.#c.memory.buffer);
    memory.set(bytes, at);
    memory[at + bytes.length] = 0;
    try { return use(at); } finally { this.#c.free(at); }
  }

  #check(code) {
    if (!code) return;
    const memory = new Uint8Array(this.#c.memory.buffer), at = this.#c.cdr_error_text(code);
    throw new Error(new TextDecoder().decode(memory.slice(at, memory.indexOf(0, at))));
  }

  #opened(open, name) {
    const place = this.#allocate(4);
    this.#given(new TextEncoder().encode(`/${name}`), path => this.#check(open(place, path)));
    this.#files.all.delete(name);
    const found = new DataView(this.#c.memory.buffer).getUint32(place, true);
    this.#c.free(place);
    return found;
  }

  /** The name of the kernels in use. */
  get kernels() {
    const memory = new Uint8Array(this.#c.memory.buffer), at = this.#c.cdr_kernels_name();
    return new TextDecoder().decode(memory.slice(at, memory.indexOf(0, at)));
  }

  /** How many tokens the state has seen. */
  get tokens() { return Number(this.#c.cdr_state_tokens(this.#model, this.#state)); }

  /** A token's bytes. */
  bytes(id) {
    return this.#given(new Uint8Array(4), place => {
      const at = this.#c.cdr_token_bytes(this.#tokenizer, id, place), { buffer } = this.#c.memory;
      return new Uint8Array(buffer).slice(at, at + new DataView(buffer).getUint32(place, true));
    });
  }

  /** A new document. */
  begin() {
    this.#decoder = new TextDecoder();
    this.#check(this.#c.cdr_state_init(this.#model, this.#state));
  }

  #prefill(ids) {
    const bytes = new Uint8Array(Int32Array.from(ids).buffer);
    this.#given(bytes, at => this.#check(this.#c.cdr_prefill(this.#model, this.#state, at, ids.length, this.#logits)));
  }

  /** Reads a text. */
  read(text) {
    const bytes = new TextEncoder().encode(text), end = this.#c.cdr_tokenizer_eot(this.#tokenizer);
    const ids = this.#given(bytes, at => this.#given(new Uint8Array(4 * bytes.length + 4), to => {
      this.#check(this.#c.cdr_encode(this.#tokenizer, at, bytes.length, to, to + 4 * bytes.length));
      const count = new DataView(this.#c.memory.buffer).getUint32(to + 4 * bytes.length, true);
      return [...new Int32Array(this.#c.memory.buffer, to, count)];
    }));
    this.#prefill(this.tokens === 0 && end >= 0 ? [end, ...ids] : ids);
  }

  /** Writes tokens and gives each one's text, as far as its characters are whole. */
  *write({ count = 200, temperature = 0.8, top_p = 0.95, top_k = 0, seed = 0 } = {}) {
    const c = this.#c, view = () => new DataView(c.memory.buffer);
    view().setFloat64(this.#how, temperature, true);
    view().setFloat64(this.#how + 8, top_p, true);
    view().setInt32(this.#how + 16, top_k, true);
    view().setBigUint64(this.#how + 24, c.cdr_random_at(BigInt(seed), BigInt(this.tokens)), true);
    view().setUint32(this.#how + 32, this.#known, true);
    this.#prefill([]);
    for (let n = 0; n < count; n++) {
      const id = c.cdr_sample(this.#how, this.#logits, this.vocab, this.#room);
      if (id < 0) throw new Error("the logits hold NaN or infinity");
      if (id === c.cdr_tokenizer_eot(this.#tokenizer)) return;
      this.#prefill([id]);
      yield this.#decoder.decode(this.bytes(id), { stream: true });
    }
  }

  /** The text of the latest tokens, 64 at most. */
  latest() {
    return this.#given(new Uint8Array(4 * 64), at => {
      const count = this.#c.cdr_state_latest(this.#model, this.#state, at);
      const ids = [...new Int32Array(this.#c.memory.buffer, at, count)];
      return new TextDecoder().decode(Uint8Array.from(ids.flatMap(id => [...this.bytes(id)])));
    });
  }

  /** The state as the bytes of a file, that any target's program loads. */
  save() {
    const path = new TextEncoder().encode("/saved.state");
    this.#given(path, at => this.#check(this.#c.cdr_state_save(this.#model, this.#state, at)));
    return this.#files.get("saved.state");
  }

  /** Goes on from the bytes of such a file; another model's is refused. */
  load(bytes) {
    this.#files.put("saved.state", bytes);
    const path = new TextEncoder().encode("/saved.state");
    this.#given(path, at => this.#check(this.#c.cdr_state_load(this.#model, this.#state, at)));
    this.#decoder = new TextDecoder();
  }
}

/** Opens the artefact whose files `get` gives as bytes, by name. */
export async function open(get) {
  let memory;
  const files = new Files(() => memory);
  const names = ["manifest.json", "tokenizer.json", "weights.safetensors", "model.wasm"];
  const [manifest, tokenizer, weights, program] = await Promise.all(names.map(get));
  files.put("manifest.json", manifest);
  files.put("tokenizer.json", tokenizer);
  files.put("weights.safetensors", weights);
  const { instance } = await WebAssembly.instantiate(program, { wasi_snapshot_preview1: files.calls });
  memory = instance.exports.memory;
  instance.exports._initialize();
  return new Model(instance.exports, files);
}
