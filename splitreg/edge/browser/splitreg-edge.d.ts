/** An image that cannot be encoded, or an option that is not valid. */
export class EdgeError extends Error {
  /** Class of the server's error, such as `RateLimited`. */
  type?: string;
  /** Seconds before a retry; null if one is useless. */
  retryAfter?: number | null;
}

/** The connection of a stream was lost, or there is none. */
export class StreamClosed extends EdgeError {}

export interface Pixels {
  width: number;
  height: number;
  /** RGBA, four bytes per pixel; alpha is ignored. */
  data: Uint8Array | Uint8ClampedArray;
}

export interface EncodeOptions {
  /** 0 (fewest bytes) to 1 (most), for a model with several rates. */
  rate?: number | null;
}

/** Encodes images, one at a time. */
export class EdgeEncoder {
  /** Load a model: the URL or the bytes of its `.wasm` file; by default the one beside the module. */
  static load(source?: string | URL | ArrayBuffer | ArrayBufferView): Promise<EdgeEncoder>;
  readonly modelId: string;
  /** Height and width of the network's input. */
  readonly inputSize: [number, number];
  readonly hasRates: boolean;
  /** Channels, height and width of the latent. */
  readonly latentShape: [number, number, number];
  encode(image: Pixels | ImageData, options?: EncodeOptions): Uint8Array;
  /** Begin a stream of images of one size; returns the parameter `video` of a server's stream. */
  beginStream(width: number, height: number, number?: number): string;
  /** Encode the next frame of a stream, given the ones before. */
  encodeFrame(image: Pixels | ImageData, options?: EncodeOptions & { key?: boolean }): Uint8Array;
}

/** Encode an image with the model beside the module. */
export function encode(image: Pixels | ImageData, options?: EncodeOptions): Promise<Uint8Array>;

export interface StreamOptions {
  heads?: string[] | null;
  masks?: string;
  maxInFlight?: number;
}

/** Head -> prediction. */
export type Answer = Record<string, unknown>;

/** Sends packets over one WebSocket. */
export class StreamClient {
  constructor(server: string, options?: StreamOptions & { video?: string | null });
  readonly opened: Promise<void>;
  readonly closed: Promise<void>;
  readonly ready: boolean;
  send(packet: Uint8Array): Promise<Answer>;
  close(): void;
}

export interface FrameAnswer {
  answer: Answer;
  bytes: number;
  /** Whether the frame was coded alone. */
  key: boolean;
  deviceMs: number;
  /** From packet to answer. */
  linkMs: number;
}

/** Sends the frames of a camera, each coded given the ones before, and opens a lost connection again. */
export class CameraStream {
  constructor(server: string, encoder: EdgeEncoder, options?: StreamOptions & { keySeconds?: number; deadlineSeconds?: number });
  readonly connections: number;
  readonly failed: boolean;
  readonly ready: boolean;
  send(image: Pixels | ImageData, options?: EncodeOptions): Promise<FrameAnswer>;
  close(): void;
}
