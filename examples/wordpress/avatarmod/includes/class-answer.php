<?php
/**
 * An answer of the service, by what is to be done next.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** One answer. */
final class Answer {

	/** HTTP status; 0 where nobody answered. */
	public int $status;

	/** The JSON. */
	public array $data;

	/** What went wrong, in words; empty where nothing did. */
	public string $error;

	/** Seconds after which to try again, where the service says so; else 0. */
	public int $retry_after;

	/** As it came. */
	public function __construct( int $status, array $data, string $error = '', int $retry_after = 0 ) {
		$this->status      = $status;
		$this->data        = $data;
		$this->error       = $error;
		$this->retry_after = $retry_after;
	}

	/** It did what was asked. */
	public function is_ok(): bool {
		return $this->status >= 200 && $this->status < 300;
	}

	/** The picture has too many bytes; another one may do. All other faults of it come as a verdict. */
	public function refuses_picture(): bool {
		return 413 === $this->status;
	}

	/** It knows another picture by this id, and will never take this one. */
	public function knows_another(): bool {
		return 409 === $this->status;
	}

	/** The same may succeed later, by itself. */
	public function is_transient(): bool {
		return 0 === $this->status || in_array( $this->status, array( 408, 429 ), true ) || $this->status >= 500;
	}
}
